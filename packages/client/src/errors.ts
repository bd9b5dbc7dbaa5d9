interface ErrorDetails {
  statusCode?: number | undefined;
  requestId?: string | undefined;
  retryAfter?: number | undefined;
}

/**
 * Base class of all errors that a call rejects with, except the reason of your AbortSignal. Holds no customer data and
 * no key.
 */
export class OpmError extends Error {
  override readonly name: string = 'OpmError';
  /** Status of the answer, or of the entry's result in a batch. Undefined if there was no answer. */
  readonly statusCode: number | undefined;
  /** Id of the request. Quote it when you contact support. */
  readonly requestId: string | undefined;
  /** Seconds to wait before another attempt, if the server sent `Retry-After`. */
  readonly retryAfter: number | undefined;

  constructor(message: string, { statusCode, requestId, retryAfter }: ErrorDetails = {}) {
    super(message);
    this.statusCode = statusCode;
    this.requestId = requestId;
    this.retryAfter = retryAfter;
  }
}

/** 400 or 413: the entry or the customer id is invalid. Sending it again fails again. */
export class InvalidEntryError extends OpmError {
  override readonly name = 'InvalidEntryError';
}

/**
 * 401: the API key is missing, unknown, revoked or expired. 403: the project is paused, or the key must not be used for
 * this or from here.
 */
export class AuthenticationError extends OpmError {
  override readonly name = 'AuthenticationError';
}

/** 429 until the deadline: the project's limit was reached. */
export class RateLimitError extends OpmError {
  override readonly name = 'RateLimitError';
}

/** 5xx until the deadline: the server could not accept the entry. */
export class UnavailableError extends OpmError {
  override readonly name = 'UnavailableError';
}

/** 422: the idempotency key belongs to another request. The client uses each key for one request only. */
export class IdempotencyError extends OpmError {
  override readonly name = 'IdempotencyError';
}

/**
 * No answer until the deadline. An entry may have been accepted; sending it again is safe, unless a newer one was sent.
 */
export class ConnectionError extends OpmError {
  override readonly name: string = 'ConnectionError';
}

/** No attempt was answered within `timeoutMs`, or the deadline came before the call's turn. */
export class TimeoutError extends ConnectionError {
  override readonly name = 'TimeoutError';
}

/** `maxQueued` calls are already open. The call was not accepted. */
export class QueueFullError extends OpmError {
  override readonly name = 'QueueFullError';
}

/** The client is closed, or was closed before the call completed. */
export class ClosedError extends OpmError {
  override readonly name = 'ClosedError';
}

/** Converts an answer, or the result of one entry in it, to an error. */
export function toError(answer: Answer, result: unknown = answer.body): OpmError {
  const { requestId, retryAfter } = answer;
  const body = (typeof result === 'object' && result !== null ? result : {}) as Record<string, unknown>;
  const statusCode = typeof body.statusCode === 'number' ? body.statusCode : answer.statusCode;
  const isExplained = statusCode >= 400 && typeof body.message === 'string';
  const message = isExplained ? String(body.message) : `unexpected answer with status ${statusCode}`;
  return new (classOf(statusCode))(message, { statusCode, requestId, retryAfter });
}

function classOf(statusCode: number): typeof OpmError {
  if (statusCode >= 500) return UnavailableError;
  return CLASSES[statusCode] ?? OpmError;
}

const CLASSES: Record<number, typeof OpmError> = {
  400: InvalidEntryError,
  401: AuthenticationError,
  403: AuthenticationError,
  413: InvalidEntryError,
  422: IdempotencyError,
  429: RateLimitError,
};

export interface Answer {
  statusCode: number;
  /** The parsed JSON. Undefined if the body is not JSON. */
  body: unknown;
  requestId: string | undefined;
  /** Seconds. */
  retryAfter: number | undefined;
  rateLimit: RateLimit | undefined;
  /** The receipt of a single entry or erasure. */
  receipt: string | undefined;
}

/** The project's limit, from the header fields RateLimit and RateLimit-Policy. */
export interface RateLimit {
  /** Entries that may be sent at once after a quiet period. */
  burst: number;
  /** Entries that become available per second. */
  perSecond: number;
  /** Entries that may be sent now. */
  remaining: number;
}
