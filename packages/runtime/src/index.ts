export {
  bool,
  ConfigError,
  count,
  countBetween,
  type Env,
  type EnvSpec,
  parseEnv,
  port,
  STORE_ENV,
  str,
} from './env.js';
export { checkAll, type Health } from './health.js';
export { type InternalServer, serveInternal } from './internal-server.js';
export { createLogger, type Logger } from './logger.js';
export { createMetrics, type Metrics } from './metrics.js';
export { outliveSessions } from './outlive-sessions.js';
export { type ProcessContext, runProcess } from './run-process.js';
export { createSparseWarning } from './sparse-warning.js';
