export type {
  AskedReceipt,
  CallOptions,
  Customer,
  DayUsage,
  EraseResult,
  FoundCustomer,
  ProjectKey,
  ReceiptState,
  RefusedEntry,
  SendResult,
  Signal,
  StoredCustomer,
} from './customer.js';
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
export {
  type CloseOptions,
  type HttpAgent,
  OpmClient,
  type OpmClientOptions,
  type RefusedOptions,
  type UsageOptions,
} from './opm-client.js';
