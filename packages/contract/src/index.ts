export {
  type CustomerAnswer,
  type Days,
  type DayUsage,
  type Entry,
  entrySchema,
  FIELD_PROPERTIES,
  parseCustomerId,
  parseDays,
  parseEntry,
  parseIdempotencyKey,
  parseJson,
  toCustomerAnswer,
  toUsageAnswer,
} from './entry.js';
export { ANSWERS, type Answer, FAULTS, Fault, type FaultCode } from './faults.js';
export { LIMITS, REQUEST_ID } from './limits.js';
export { toOpenApiDocument } from './openapi/to-openapi-document.js';
export {
  type FateAnswer,
  parseReceiptOf,
  parseRefusedQuery,
  REFUSALS,
  type RefusalCode,
  type RefusedAnswer,
  type RefusedEntry,
  type RefusedQuery,
  toCursor,
  toRefusedEntry,
  toRefusedFault,
} from './refused.js';
export { type Line, LineSplitter, parseValues, splitArray, type Values } from './split-batch.js';
