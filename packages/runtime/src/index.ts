export {
  bool,
  ConfigError,
  count,
  countBetween,
  type Env,
  type EnvSpec,
  PROCESS_ENV,
  parseEnv,
  port,
  readSecretFiles,
  STORE_ENV,
  str,
} from './env.js';
export { checkAll, type Health, type InternalServer, serveInternal } from './internal-server.js';
export { createLogger, createThrottledWarning, type Logger } from './logger.js';
export { createMetrics, type Metrics } from './metrics.js';
export { type ProcessContext, runProcess } from './run-process.js';
