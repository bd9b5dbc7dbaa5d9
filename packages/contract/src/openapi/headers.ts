import { entrySchema, IDEMPOTENCY_KEY } from '../entry.js';
import { REQUEST_ID } from '../limits.js';
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
  contentEncoding: {
    name: 'content-encoding',
    in: 'header',
    description:
      'How the body is compressed; `deflate` is the format of zlib. The limits hold for the body before and after we inflate it.',
    schema: { type: 'string', pattern: '^(gzip|deflate)$' }, // of an enum, the viewer would send the first value
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
    description: 'This is the first answer for the idempotency key again; nothing was done.',
    required: true,
    schema: { type: 'string', const: 'true' },
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
