import type { Answer } from './http-transport.js';

export interface ErrorDetails {
  statusCode?: number | undefined;
  requestId?: string | undefined;
  retryAfter?: number | undefined;
}

/** Everything that a call may be rejected with, beside the reason of your own AbortSignal. Holds no customer data and no key. */
export class OpmError extends Error {
  override readonly name: string = 'OpmError';
  /** Of the answer, or of the entry's own result in it; undefined where there is none. */
  readonly statusCode: number | undefined;
  /** Name it when you ask about the request. */
  readonly requestId: string | undefined;
  /** Seconds until another try makes sense, where the server has said so. */
  readonly retryAfter: number | undefined;

  constructor(message: string, { statusCode, requestId, retryAfter }: ErrorDetails = {}) {
    super(message);
    this.statusCode = statusCode;
    this.requestId = requestId;
    this.retryAfter = retryAfter;
  }
}

/** The entry, or the customer id, is wrong: sending it again changes nothing. 400 or 413. */
export class InvalidEntryError extends OpmError {
  override readonly name = 'InvalidEntryError';
}

/** The API key is missing, unknown, revoked or expired. 401. */
export class AuthenticationError extends OpmError {
  override readonly name = 'AuthenticationError';
}

/** Too fast, until the deadline. 429. */
export class RateLimitError extends OpmError {
  override readonly name = 'RateLimitError';
}

/** The server could not take it, until the deadline. 5xx. */
export class UnavailableError extends OpmError {
  override readonly name = 'UnavailableError';
}

/** The idempotency key is in use for another request. 409 or 422. */
export class IdempotencyError extends OpmError {
  override readonly name = 'IdempotencyError';
}

/** No answer, until the deadline. An entry may have been accepted nevertheless; sending it again is safe. */
export class ConnectionError extends OpmError {
  override readonly name: string = 'ConnectionError';
}

/** No answer in time, until the deadline; or the deadline came before its turn. */
export class TimeoutError extends ConnectionError {
  override readonly name = 'TimeoutError';
}

/** `maxQueued` calls are open already: the call was not taken. */
export class QueueFullError extends OpmError {
  override readonly name = 'QueueFullError';
}

/** The client is closed, or was closed before the call was done. */
export class ClosedError extends OpmError {
  override readonly name = 'ClosedError';
}

/** The error that an answer stands for, or one entry's result in it. */
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
  409: IdempotencyError,
  413: InvalidEntryError,
  422: IdempotencyError,
  429: RateLimitError,
};
