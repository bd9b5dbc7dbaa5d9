import { entrySchema, IDEMPOTENCY_KEY } from '../entry.js';
import { LIMITS, REQUEST_ID } from '../limits.js';
import { CURSOR, ISO_TIME, RECEIPT_EXAMPLE, RECEIPT_FORM, REFUSED_PAGE } from '../reads.js';
import { type Json, toJsonSchema } from './schemas.js';

const requestId = { type: 'string', pattern: REQUEST_ID.source };

/** Parameters of the operations, by the name under which the document refers to them. */
export const PARAMETERS = {
  customerId: {
    name: 'customerId',
    in: 'path',
    required: true,
    description: 'Your id of the customer, percent-encoded: the customer `a/b` is `/entry/a%2Fb`.',
    schema: { ...toJsonSchema(entrySchema.properties.customerId), type: 'string' },
    example: '7519',
  },
  receipt: {
    name: 'receipt',
    in: 'path',
    required: true,
    description: 'The receipt of one of the customer’s entries: the header `receipt` of the answer.',
    schema: { type: 'string', pattern: RECEIPT_FORM.source },
    example: RECEIPT_EXAMPLE,
  },
  since: {
    name: 'since',
    in: 'query',
    description:
      'Only entries that were refused at this time or later. ISO 8601 with `Z` or an offset, whose `+` is `%2B`; a date is its first moment in UTC.',
    schema: { type: 'string', pattern: ISO_TIME.source },
    example: '2026-11-30T12:00:00Z',
  },
  cursor: {
    name: 'cursor',
    in: 'query',
    description: 'The `cursor` of the page before.',
    schema: { type: 'string', pattern: CURSOR.source },
  },
  limit: {
    name: 'limit',
    in: 'query',
    description: 'Most entries on the page.',
    schema: { type: 'integer', minimum: 1, maximum: REFUSED_PAGE.max, default: REFUSED_PAGE.default },
  },
  requestId: {
    name: 'x-request-id',
    in: 'header',
    description: 'Your own id for this request. The answer returns it. If you send none, we create one.',
    schema: requestId,
  },
  idempotencyKey: {
    name: 'idempotency-key',
    in: 'header',
    description:
      'Use a new random value for each request, and the same value when you repeat it. For 24 hours, a repeat of an accepted request gets the first answer and changes nothing.',
    schema: { type: 'string', pattern: IDEMPOTENCY_KEY.source },
  },
  from: {
    name: 'from',
    in: 'query',
    description: `The first day (UTC); by default, so many days before the last one that there are ${LIMITS.defaultDays}.`,
    schema: { type: 'string', format: 'date' },
    example: '2026-11-01',
  },
  to: {
    name: 'to',
    in: 'query',
    description: `The last day (UTC); by default, today. At most ${LIMITS.days} days.`,
    schema: { type: 'string', format: 'date' },
    example: '2026-11-30',
  },
  contentEncoding: {
    name: 'content-encoding',
    in: 'header',
    description:
      'How the body is compressed; `deflate` is the format of zlib. The limits hold for the body before and after we inflate it.',
    schema: { type: 'string', pattern: '^(gzip|deflate)$' }, // for an enum, the viewer would send the first value
  },
} satisfies Record<string, Json>;

/** Headers of answers, by name. */
export const HEADERS = {
  'x-request-id': {
    description: 'Identifies the request in our logs: your own id, or a new one.',
    required: true,
    schema: requestId,
    example: 'import-42',
  },
  'retry-after': {
    description: 'Seconds to wait before you send the request again.',
    required: true,
    schema: { type: 'integer', minimum: 1 },
    example: 1,
  },
  allow: {
    description: 'The methods that the path supports.',
    required: true,
    schema: { type: 'string' },
    example: 'POST',
  },
  'accept-encoding': {
    description: 'The values of `content-encoding` that we support. Given if the body has another one.',
    required: true,
    schema: { type: 'string', const: 'gzip, deflate' },
  },
  'cache-control': {
    description: 'Answers depend on the key, so caches must not store them.',
    required: true,
    schema: { type: 'string', const: 'no-store' },
  },
  'x-content-type-options': {
    description: 'Browsers must treat the answer as JSON, whatever it contains.',
    required: true,
    schema: { type: 'string', const: 'nosniff' },
  },
  'idempotent-replayed': {
    description: 'An earlier attempt with this idempotency key got this answer.',
    required: true,
    schema: { type: 'string', const: 'true' },
  },
  receipt: {
    description:
      'Stands for this entry or erasure of this customer. Keep it to ask later what became of it. A repeat with an idempotency key gets the same receipt.',
    required: true,
    schema: { type: 'string', pattern: RECEIPT_FORM.source },
    example: RECEIPT_EXAMPLE,
  },
  'ratelimit-policy': {
    description:
      "Your project's limit, if it has one: `q` entries at once, and `opm-rate` more per second. The full `q` are available again after `w` seconds without entries.",
    required: true,
    schema: { type: 'string', pattern: '^"burst";q=\\d+;w=\\d+;opm-rate=\\d+$' },
    example: '"burst";q=1000;w=10;opm-rate=100',
  },
  ratelimit: {
    description:
      'If your project has a limit: you may send `r` more entries within the next `t` seconds. Rejected data also counts: each KiB or part of a KiB as one entry.',
    required: true,
    schema: { type: 'string', pattern: '^"burst";r=\\d+;t=\\d+$' },
    example: '"burst";r=640;t=4',
  },
} satisfies Record<string, Json>;

export type ParameterName = keyof typeof PARAMETERS;
export type HeaderName = keyof typeof HEADERS;
