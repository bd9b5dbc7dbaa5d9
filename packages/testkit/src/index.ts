export { BACKENDS, type Backend, type BackendName, createBackend } from './backends.js';
export { findChildren, isRunning } from './is-running.js';
export { provisionServers, type Server, startRedis, type TestServers } from './provision-servers.js';
export { startApp, type TestApp } from './start-app.js';
export { type ProcessExit, type ProcessOptions, startProcess, type TestProcess } from './start-process.js';
export { type Proxy, startProxy } from './start-proxy.js';
export { createDatabase, createTestDatabase, type TestDatabase } from './test-database.js';
export { testPrefix } from './test-prefix.js';
export { type WaitOptions, waitFor } from './wait-for.js';
