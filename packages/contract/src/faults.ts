/**
 * Everything that can go wrong, as a partner sees it. `retryAfterSeconds` marks what is worth sending again.
 * A code is never reused for another meaning.
 */
export const FAULTS = {
  KEY_MISSING: { statusCode: 401, error: 'Unauthorized', message: 'API key is required' },
  KEY_UNKNOWN: { statusCode: 401, error: 'Unauthorized', message: 'API key does not exist' },
  BODY_MALFORMED: { statusCode: 400, error: 'Bad Request', message: 'body must be valid JSON' },
  BODY_INVALID: { statusCode: 400, error: 'Bad Request', message: 'body is invalid' },
  BODY_TOO_LARGE: { statusCode: 413, error: 'Payload Too Large', message: 'body must not be larger than 16 KiB' },
  MEDIA_TYPE_UNSUPPORTED: { statusCode: 415, error: 'Unsupported Media Type', message: 'body must be JSON' },
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
  INTERNAL: { statusCode: 500, error: 'Internal Server Error', message: 'something went wrong' },
} as const;

export type FaultCode = keyof typeof FAULTS;

/** An error with a public message and a private `cause`; the edge turns it into a status and logs the cause once. */
export class Fault extends Error {
  override readonly name = 'Fault';
  readonly code: FaultCode;

  /** @param message replaces the public message of the table, for faults that name a field */
  constructor(code: FaultCode, { cause, message = FAULTS[code].message }: { cause?: unknown; message?: string } = {}) {
    super(message, { cause });
    this.code = code;
  }
}
