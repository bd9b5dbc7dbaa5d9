import { LIMITS, toSize } from './limits.js';

/**
 * Every error that a partner can receive. `retryAfterSeconds` marks the faults that are worth retrying; it is the
 * default of the header `retry-after`. A code is never reused for another meaning.
 */
export const FAULTS = {
  KEY_MISSING: { statusCode: 401, error: 'Unauthorized', message: 'API key is required' },
  KEY_UNKNOWN: { statusCode: 401, error: 'Unauthorized', message: 'API key does not exist' },
  PROJECT_PAUSED: { statusCode: 403, error: 'Forbidden', message: 'project is paused' },
  KEY_SCOPE: { statusCode: 403, error: 'Forbidden', message: 'API key does not allow this' },
  KEY_ADDRESS: { statusCode: 403, error: 'Forbidden', message: 'API key must not be used from this address' },
  BODY_MALFORMED: { statusCode: 400, error: 'Bad Request', message: 'body must be valid JSON' },
  GZIP_INVALID: { statusCode: 400, error: 'Bad Request', message: 'body must be valid gzip' },
  DEFLATE_INVALID: { statusCode: 400, error: 'Bad Request', message: 'body must be valid deflate' },
  BODY_INVALID: { statusCode: 400, error: 'Bad Request', message: 'body is invalid' },
  BODY_TOO_LARGE: {
    statusCode: 413,
    error: 'Payload Too Large',
    message: `body must not be larger than ${toSize(LIMITS.entryBytes)}`,
  },
  CHUNKS_TOO_SMALL: {
    statusCode: 400,
    error: 'Bad Request',
    message: `body must not have more than ${LIMITS.smallChunks} HTTP chunks of fewer than ${LIMITS.smallChunkBytes} bytes`,
  },
  BATCH_TOO_LARGE: {
    statusCode: 413,
    error: 'Payload Too Large',
    message: `body must not be larger than ${toSize(LIMITS.batchBytes)}`,
  },
  BATCH_TOO_LONG: {
    statusCode: 413,
    error: 'Payload Too Large',
    message: `body must not have more than ${LIMITS.batchEntries} entries`,
  },
  BATCH_EMPTY: { statusCode: 400, error: 'Bad Request', message: 'body must have at least one entry' },
  IDEMPOTENCY_KEY_INVALID: {
    statusCode: 400,
    error: 'Bad Request',
    message: 'idempotency key must have 1 to 255 visible ASCII characters',
  },
  IDEMPOTENCY_KEY_REPEATED: { statusCode: 400, error: 'Bad Request', message: 'idempotency key must be given once' },
  IDEMPOTENCY_KEY_REUSED: {
    statusCode: 422,
    error: 'Unprocessable Entity',
    message: 'idempotency key belongs to another request',
  },
  PATH_MALFORMED: { statusCode: 400, error: 'Bad Request', message: 'path must be percent-encoded UTF-8' },
  PATH_INVALID: { statusCode: 400, error: 'Bad Request', message: 'path is invalid' },
  RECEIPT_INVALID: {
    statusCode: 400,
    error: 'Bad Request',
    message: 'path/receipt must be a receipt of this customer',
  },
  QUERY_INVALID: { statusCode: 400, error: 'Bad Request', message: 'query is invalid' },
  CUSTOMER_UNKNOWN: { statusCode: 404, error: 'Not Found', message: 'customer does not exist' },
  CUSTOMER_ERASED: { statusCode: 404, error: 'Not Found', message: 'customer is being erased' },
  MEDIA_TYPE_UNSUPPORTED: { statusCode: 415, error: 'Unsupported Media Type', message: 'body must be JSON' },
  BODY_COMPRESSED: {
    statusCode: 415,
    error: 'Unsupported Media Type',
    message: 'content-encoding must be gzip or deflate',
  },
  ROUTE_UNKNOWN: { statusCode: 404, error: 'Not Found', message: 'route does not exist' },
  METHOD_NOT_ALLOWED: { statusCode: 405, error: 'Method Not Allowed', message: 'method is not allowed' },
  QUEUE_UNAVAILABLE: {
    statusCode: 503,
    error: 'Service Unavailable',
    message: 'entry was not accepted, try again',
    retryAfterSeconds: 1,
  },
  KEYS_UNAVAILABLE: {
    statusCode: 503,
    error: 'Service Unavailable',
    message: 'API key could not be checked, try again',
    retryAfterSeconds: 1,
  },
  CUSTOMERS_UNAVAILABLE: {
    statusCode: 503,
    error: 'Service Unavailable',
    message: 'customer could not be read, try again',
    retryAfterSeconds: 1,
  },
  USAGE_UNAVAILABLE: {
    statusCode: 503,
    error: 'Service Unavailable',
    message: 'usage could not be read, try again',
    retryAfterSeconds: 1,
  },
  KEY_LIST_UNAVAILABLE: {
    statusCode: 503,
    error: 'Service Unavailable',
    message: 'API keys could not be read, try again',
    retryAfterSeconds: 1,
  },
  REFUSED_UNAVAILABLE: {
    statusCode: 503,
    error: 'Service Unavailable',
    message: 'refused entries could not be read, try again',
    retryAfterSeconds: 1,
  },
  QUEUE_FULL: {
    statusCode: 503,
    error: 'Service Unavailable',
    message: 'entry was not accepted, too many are waiting, try again',
    retryAfterSeconds: 5,
  },
  OVERLOADED: {
    statusCode: 503,
    error: 'Service Unavailable',
    message: 'entry was not accepted, too many requests at once, try again',
    retryAfterSeconds: 1,
  },
  TOO_MANY_UNKNOWN_KEYS: {
    statusCode: 429,
    error: 'Too Many Requests',
    message: 'too many API keys that do not exist, try again',
    retryAfterSeconds: 10,
  },
  TOO_MANY_IDEMPOTENCY_KEYS: {
    statusCode: 429,
    error: 'Too Many Requests',
    message: 'request was not accepted, too many idempotency keys are remembered, send it without one',
    retryAfterSeconds: 60,
  },
  HTTP_INVALID: { statusCode: 400, error: 'Bad Request', message: 'request must be valid HTTP' },
  HEADERS_TOO_LARGE: {
    statusCode: 431,
    error: 'Request Header Fields Too Large',
    message: 'headers must not be larger than 16 KiB',
  },
  HEADERS_TOO_MANY: {
    statusCode: 431,
    error: 'Request Header Fields Too Large',
    message: `request must not have more than ${LIMITS.headers} headers`,
  },
  REQUEST_TOO_SLOW: { statusCode: 408, error: 'Request Timeout', message: 'request must arrive within 10 seconds' },
  RATE_LIMITED: {
    statusCode: 429,
    error: 'Too Many Requests',
    message: 'entry was not accepted, your rate limit is reached, try again after the seconds in retry-after',
    retryAfterSeconds: 1,
  },
  INTERNAL: { statusCode: 500, error: 'Internal Server Error', message: 'something went wrong' },
} as const;

export type FaultCode = keyof typeof FAULTS;

/** Seconds to wait before a retry; 0 if a retry is pointless. */
export function retryAfterOf(code: FaultCode): number {
  const fault = FAULTS[code];
  return 'retryAfterSeconds' in fault ? fault.retryAfterSeconds : 0;
}

/** An error with a public message and a private `cause`. The ingress answers the message and logs the cause once. */
export class Fault extends Error {
  override readonly name = 'Fault';
  readonly code: FaultCode;
  /** 0 if a retry is pointless. */
  readonly retryAfterSeconds: number;

  /** @param details `message` and `retryAfterSeconds` override those of {@link FAULTS} */
  constructor(code: FaultCode, details: { cause?: unknown; message?: string; retryAfterSeconds?: number } = {}) {
    super(details.message ?? FAULTS[code].message, { cause: details.cause });
    this.code = code;
    this.retryAfterSeconds = details.retryAfterSeconds ?? retryAfterOf(code);
  }
}

/** The answers on success. Their texts are part of the contract, byte for byte. */
export const ANSWERS = {
  pong: { statusCode: 200, message: 'pong' },
  created: { statusCode: 201, message: 'OK - Created' },
  updateAccepted: { statusCode: 202, message: 'OK - Update accepted' },
  multiStatus: { statusCode: 207, message: 'OK - Multi-Status' },
  erasureAccepted: { statusCode: 202, message: 'OK - Erasure accepted' },
} as const;

export type Answer = (typeof ANSWERS)[keyof typeof ANSWERS];
