export {
  type CustomerAnswer,
  type Entry,
  entrySchema,
  FIELD_PROPERTIES,
  parseAskedReceipt,
  parseCustomerId,
  parseEntry,
  parseIdempotencyKey,
  parseJson,
  toCustomerAnswer,
} from './entry.js';
export { ANSWERS, type Answer, FAULTS, Fault, type FaultCode } from './faults.js';
export { LIMITS, REQUEST_ID } from './limits.js';
export { toOpenApiDocument } from './openapi/to-openapi-document.js';
export {
  type Days,
  type DayUsage,
  type FateAnswer,
  type FatesAnswer,
  parseDays,
  parseReceiptOf,
  parseRefusedQuery,
  REFUSALS,
  type RefusalCode,
  type RefusedAnswer,
  type RefusedEntry,
  type RefusedQuery,
  toCursor,
  toRefusalCode,
  toRefusedEntry,
  toUnknownCustomer,
  toUsageAnswer,
} from './reads.js';
export { type Line, LineSplitter, parseValues, splitArray, type Values } from './split-batch.js';
