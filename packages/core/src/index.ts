export {
  createAddressCheck,
  createApiKey,
  hashApiKey,
  isAddressRule,
  isApiKey,
  isKeyLabel,
  type KeyRules,
  MAX_KEY_ADDRESSES,
  type RateLimit,
  SCOPES,
  type Scope,
  toRuleTexts,
} from './api-key.js';
export {
  type CustomerEntry,
  type CustomerState,
  type EntryFields,
  FIELDS,
  type Field,
  foldEntries,
  isLive,
  MAX_CUSTOMER_ID_LENGTH,
  MAX_REFUSED_OF_CUSTOMER,
  mergeCustomer,
  RECORD_TTL_US,
  type RequestIds,
  toDate,
  toHint,
  toState,
  type Version,
} from './customer.js';
export { GroupCommit } from './group-commit.js';
export { FLUSH_COMMITS, ignoreUnheardPgErrors } from './postgres-sessions.js';
export { isStored, parseReceipt, type Receipt, toReceipt } from './receipt.js';
export { awaitAll, MAX_ANSWER_TIMEOUT_MS, singleFlight, untilAborted, withTimeout } from './with-timeout.js';
