import type { IncomingMessage } from 'node:http';
import { Fault, type FaultCode, LIMITS } from '@opm/contract';
import { type BodyTaker, dropRest, takeBody } from './fast-express.js';
import type { RequestContext } from './request-context.js';
import { MAX_DRAINED_BYTES } from './unread-body.js';

/** Called with the size of each part in bytes before it is stored. If it throws a Fault, the body is refused. */
export type OnPart = (bytes: number) => void;

export type BodyLimit = {
  maxBytes: number;
  fault: FaultCode;
  /** If undefined, the parts count towards the memory limit of the connection. */
  onPart?: OnPart;
};

const ENTRY_LIMIT: BodyLimit = { maxBytes: LIMITS.entryBytes, fault: 'BODY_TOO_LARGE' };

/** The client closed the connection, so no answer is possible. */
export class ClientDisconnected extends Error {
  override name = 'ClientDisconnected';
}

const EMPTY = Buffer.alloc(0);
const MIN_GROWN_BYTES = 1024;

const NOT_JSON = /^\s*(application\/x-www-form-urlencoded|multipart\/)/i;

/**
 * Reads a JSON body. It accepts almost any content type, because `fetch` labels a string body text/plain. It calls
 * `onBody` once, or `onError` once; if `onBody` throws, it calls `onError` with that error. It uses callbacks because a
 * promise would cost time for every entry.
 * @param onError gets the Fault of the limit, CHUNKS_TOO_SMALL, an error of `onPart`, or ClientDisconnected
 * @throws Fault MEDIA_TYPE_UNSUPPORTED, BODY_COMPRESSED or the one of the limit, if the headers show it
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
  if (Number(length) > MAX_DRAINED_BYTES) throw new Fault(limit.fault);
  takeBody(request, new BodyReader(request, context, onBody, onError, limit));
}

class BodyReader implements BodyTaker {
  readonly #request: IncomingMessage;
  readonly #context: RequestContext;
  readonly #onBody: (body: Buffer) => void;
  readonly #onError: (error: unknown) => void;
  readonly #limit: BodyLimit;
  /** The first part, usually the whole body, or a growing copy: a list of small buffers takes 100 times their bytes. */
  #body: Buffer = EMPTY;
  #size = 0;
  #isDone = false;

  constructor(
    request: IncomingMessage,
    context: RequestContext,
    onBody: (body: Buffer) => void,
    onError: (error: unknown) => void,
    limit: BodyLimit,
  ) {
    this.#request = request;
    this.#context = context;
    this.#onBody = onBody;
    this.#onError = onError;
    this.#limit = limit;
  }

  onPart(part: Buffer): void {
    if (this.#isDone) return;
    const { maxBytes, fault, onPart } = this.#limit;
    const before = this.#size;
    this.#size += part.length;
    if (this.#size > MAX_DRAINED_BYTES) this.onRefuse(new Fault(fault));
    if (this.#size > maxBytes) {
      this.#body = EMPTY;
      return;
    }
    try {
      if (onPart) onPart(part.length);
      else this.#context.connection?.hold(this.#context, part.length);
      this.#keep(part, before);
    } catch (error) {
      this.onRefuse(error);
    }
  }

  #keep(part: Buffer, before: number): void {
    if (before === 0) {
      this.#body = part;
      return;
    }
    if (this.#size > this.#body.length) {
      const grown = Buffer.allocUnsafe(Math.min(this.#limit.maxBytes, Math.max(2 * this.#size, MIN_GROWN_BYTES)));
      this.#body.copy(grown, 0, 0, before);
      this.#body = grown;
    }
    part.copy(this.#body, before);
  }

  onEnd(): void {
    if (this.#isDone) return;
    this.#context.bodyBytes = this.#size;
    try {
      if (this.#size > this.#limit.maxBytes) throw new Fault(this.#limit.fault);
      this.#onBody(this.#size === this.#body.length ? this.#body : this.#body.subarray(0, this.#size));
    } catch (error) {
      this.#onError(error);
    }
  }

  onAbort(): void {
    this.#fail(new ClientDisconnected('client disconnected before the body was complete'));
  }

  onRefuse(error: unknown): void {
    dropRest(this.#request);
    this.#fail(error);
  }

  #fail(error: unknown): void {
    if (this.#isDone) return;
    this.#isDone = true;
    this.#context.bodyBytes = this.#size;
    this.#body = EMPTY;
    this.#onError(error);
  }
}

/** @throws Fault BODY_COMPRESSED */
export function refuseCompressed({ headers: { 'content-encoding': encoding } }: IncomingMessage): void {
  if (encoding === undefined || /^\s*(identity)?\s*$/i.test(encoding)) return;
  throw new Fault('BODY_COMPRESSED');
}
