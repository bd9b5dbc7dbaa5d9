export type { CallOptions } from './call.js';
export type { Customer, FoundCustomer, StoredCustomer } from './customer.js';
export {
  AuthenticationError,
  ClosedError,
  ConnectionError,
  IdempotencyError,
  InvalidEntryError,
  OpmError,
  QueueFullError,
  RateLimitError,
  TimeoutError,
  UnavailableError,
} from './errors.js';
export { type CloseOptions, OpmClient, type OpmClientOptions } from './opm-client.js';
