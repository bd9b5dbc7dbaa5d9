export { findFreePort } from './find-free-port.js';
export { readCommandLine } from './process-table.js';
export {
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
  startEmbeddedPostgres,
} from './start-embedded-postgres.js';
