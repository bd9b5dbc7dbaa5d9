import { entrySchema } from '../entry.js';
import { IDEMPOTENCY_KEY } from '../idempotency-key.js';
import { REQUEST_ID } from '../request-id.js';
import { toJsonSchema } from './schemas.js';
import type { Json } from './to-openapi-document.js';

const requestId = { type: 'string', pattern: REQUEST_ID.source };

/** What operations take besides the body, by the name that they refer to it with. */
export const PARAMETERS = {
  customerId: {
    name: 'customerId',
    in: 'path',
    required: true,
    description: 'The id that you sent the customer under, percent-encoded: the customer `a/b` is `/entry/a%2Fb`.',
    schema: { ...toJsonSchema(entrySchema.properties.customerId), type: 'string' },
    example: '7519',
  },
  requestId: {
    name: 'x-request-id',
    in: 'header',
    description: 'An id of your own for this request. You get it back; where there is none, we make one.',
    schema: requestId,
  },
  idempotencyKey: {
    name: 'idempotency-key',
    in: 'header',
    description:
      'A new random value for each request, and the same one for its repeats: where the first one did something and was answered, these get that answer for 24 hours, and change nothing.',
    schema: { type: 'string', pattern: IDEMPOTENCY_KEY.source },
  },
} satisfies Record<string, Json>;

/** What answers carry besides the body, by the header's name. Those with `required` are always there. */
export const HEADERS = {
  'x-request-id': {
    description: 'What ties the answer to our logs: your own id of the request, or a new one.',
    required: true,
    schema: requestId,
    example: 'import-42',
  },
  'retry-after': {
    description: 'Seconds to wait before sending it again.',
    required: true,
    schema: { type: 'integer', minimum: 1 },
    example: 1,
  },
  allow: {
    description: 'The methods that the path has.',
    required: true,
    schema: { type: 'string' },
    example: 'POST',
  },
  'cache-control': {
    description: 'Answers depend on the key, so caches must not keep them.',
    required: true,
    schema: { type: 'string', const: 'no-store' },
  },
  'x-content-type-options': {
    description: 'Browsers take the answer for JSON, whatever is in it.',
    required: true,
    schema: { type: 'string', const: 'nosniff' },
  },
  'idempotent-replayed': {
    description: 'This is the first answer to the idempotency key once more.',
    required: true,
    schema: { type: 'string', const: 'true' },
  },
  'ratelimit-policy': {
    description:
      "Your project's limit, where it has one: `q` entries at once, all of them again after `w` seconds without one, and `opm-rate` more with every second.",
    required: true,
    schema: { type: 'string', pattern: '^"burst";q=\\d+;w=\\d+;opm-rate=\\d+$' },
    example: '"burst";q=1000;w=10;opm-rate=100',
  },
  ratelimit: {
    description:
      'Where your project has a limit: `r` more entries may come within the next `t` seconds. What is refused counts, too: each KiB of it or part of one as an entry.',
    required: true,
    schema: { type: 'string', pattern: '^"burst";r=\\d+;t=\\d+$' },
    example: '"burst";r=640;t=4',
  },
} satisfies Record<string, Json>;

export type ParameterName = keyof typeof PARAMETERS;
export type HeaderName = keyof typeof HEADERS;
