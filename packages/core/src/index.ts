export { createApiKey, hashApiKey, isApiKey } from './api-key.js';
export { type CustomerEntry, type EntryFields, FIELDS, type Field, type Version } from './customer-entry.js';
export { FLUSH_COMMITS } from './flush-commits.js';
export { foldEntries } from './fold-entries.js';
export { GroupCommit } from './group-commit.js';
export { type CustomerState, isLive, mergeCustomer, toState } from './merge-customer.js';
export type { RateLimit } from './rate-limit.js';
export { withTimeout } from './with-timeout.js';
