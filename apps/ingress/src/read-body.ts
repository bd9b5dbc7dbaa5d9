import type { IncomingMessage } from 'node:http';
import { Fault, type FaultCode, LIMITS } from '@opm/contract';
import { type BodyTaker, type RequestContext, takeBody } from './express-classes.js';

/** Hears how many bytes each part has, before it is kept. May throw a Fault, which refuses the body. */
export type OnPart = (bytes: number) => void;

export type BodyLimit = {
  maxBytes: number;
  /** A body that is too large is read to its end up to here, so that its sender reads our answer and not a reset. */
  maxDrainedBytes: number;
  fault: FaultCode;
  onPart?: OnPart;
};

const ENTRY_LIMIT: BodyLimit = {
  maxBytes: LIMITS.entryBytes,
  maxDrainedBytes: 1024 * 1024,
  fault: 'BODY_TOO_LARGE',
};

/** There is nobody left to answer. */
export class HungUp extends Error {
  override name = 'HungUp';
}

const EMPTY = Buffer.alloc(0);

const NOT_JSON = /^\s*(application\/x-www-form-urlencoded|multipart\/)/i;

/**
 * Reads the body of JSON, whatever its content type says: `fetch` labels a string body text/plain. One of the two is
 * called, once; `onError` also with what `onBody` throws. They are callbacks and not a promise because this stands in the
 * way of every entry.
 * @param onError gets the limit's Fault, or HungUp
 * @throws Fault MEDIA_TYPE_UNSUPPORTED, BODY_COMPRESSED or the limit's, where the headers tell
 */
export function readBody(
  request: IncomingMessage,
  context: RequestContext,
  onBody: (body: Buffer) => void,
  onError: (error: unknown) => void,
  limit: BodyLimit = ENTRY_LIMIT,
): void {
  const { 'content-type': type, 'content-length': length } = request.headers;
  if (type !== undefined && NOT_JSON.test(type)) throw new Fault('MEDIA_TYPE_UNSUPPORTED');
  refuseCompressed(request);
  if (Number(length) > limit.maxDrainedBytes) throw new Fault(limit.fault);
  takeBody(request, new BodyReader(context, onBody, onError, limit));
}

class BodyReader implements BodyTaker {
  readonly #context: RequestContext;
  readonly #onBody: (body: Buffer) => void;
  readonly #onError: (error: unknown) => void;
  readonly #limit: BodyLimit;
  #parts: Buffer[] = [];
  #size = 0;
  #isDone = false;

  constructor(
    context: RequestContext,
    onBody: (body: Buffer) => void,
    onError: (error: unknown) => void,
    limit: BodyLimit,
  ) {
    this.#context = context;
    this.#onBody = onBody;
    this.#onError = onError;
    this.#limit = limit;
  }

  onPart(part: Buffer): void {
    if (this.#isDone) return;
    const { maxBytes, maxDrainedBytes, fault, onPart } = this.#limit;
    this.#size += part.length;
    if (this.#size > maxDrainedBytes) this.#refuse(new Fault(fault));
    if (this.#size > maxBytes) return;
    try {
      onPart?.(part.length);
      this.#parts.push(part);
    } catch (error) {
      this.#refuse(error);
    }
  }

  onEnd(): void {
    if (this.#isDone) return;
    this.#context.bodyBytes = this.#size;
    try {
      if (this.#size > this.#limit.maxBytes) throw new Fault(this.#limit.fault);
      this.#onBody(this.#parts.length > 1 ? Buffer.concat(this.#parts, this.#size) : (this.#parts[0] ?? EMPTY));
    } catch (error) {
      this.#onError(error);
    }
  }

  onAbort(): void {
    this.#refuse(new HungUp('the request ended before its body did'));
  }

  #refuse(error: unknown): void {
    if (this.#isDone) return;
    this.#isDone = true;
    this.#context.bodyBytes = this.#size;
    this.#parts = [];
    this.#onError(error);
  }
}

/** @throws Fault BODY_COMPRESSED */
export function refuseCompressed({ headers: { 'content-encoding': encoding } }: IncomingMessage): void {
  if (encoding === undefined || /^\s*(identity)?\s*$/i.test(encoding)) return;
  throw new Fault('BODY_COMPRESSED');
}
