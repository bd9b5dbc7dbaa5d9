export {
  bool,
  ConfigError,
  count,
  type Env,
  PROCESS_ENV,
  parseEnv,
  port,
  readSecretFiles,
  STORE_ENV,
  str,
  wholeNumber,
} from './env.js';
export { createLogger, createThrottledWarning, type Logger } from './logger.js';
export { createMetrics, type Metrics } from './metrics.js';
export { type ProcessContext, runProcess } from './run-process.js';
