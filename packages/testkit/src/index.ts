export { removeLeftContainers, type Server, testRunId } from './containers.js';
export { type ContractCheck, checkFetch, createContractCheck, type Exchange } from './contract-check.js';
export {
  findChromium,
  findCompiler,
  findProgram,
  findPrometheus,
  findPsql,
  findRedisProgram,
  findShellCheck,
} from './find-program.js';
export {
  BACKENDS,
  type Backend,
  type BackendName,
  createBackend,
  type LocalRedis,
  provisionServers,
  startLocalRedis,
  startRedis,
  type TestServers,
} from './provision-servers.js';
export { type ClusterNode, type RedisCluster, startRedisCluster } from './redis-cluster.js';
export { describeMachine, median, toTable, toWhole } from './report.js';
export {
  ANSWER_TIMEOUT_MS,
  type AppName,
  hasNoJobs,
  OPM,
  runOpm,
  startApp,
  type TestApp,
  WIDE_LIMITS,
} from './start-app.js';
export {
  findChildren,
  isRunning,
  type ProcessExit,
  type ProcessOptions,
  type RunningProgram,
  startProcess,
  startProgram,
  type TestProcess,
} from './start-process.js';
export { startProxy, type TcpProxy } from './start-proxy.js';
export {
  createDatabase,
  createTestDatabase,
  isAwaited,
  query,
  type TestDatabase,
  testPrefix,
  withRedis,
} from './test-database.js';
export { type WaitOptions, waitFor } from './wait-for.js';
