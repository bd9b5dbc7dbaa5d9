import type { IncomingMessage } from 'node:http';
import { createGunzip, createInflate } from 'node:zlib';
import { Fault, type FaultCode, LIMITS } from '@opm/contract';
import { GroupCommit } from '@opm/core';
import { type OnShed, shed } from '../guards/overload.js';
import { type BodyTaker, dropRest, takeBody } from './fast-express.js';
import type { RequestContext } from './request-context.js';
import { MAX_DRAINED_BYTES } from './unread-body.js';

/** Called with the size of each part in bytes before it is stored. If it throws a Fault, the body is refused. */
export type OnPart = (bytes: number) => void;

/** `maxBytes` limits a compressed body twice: as it arrives, and inflated. */
export type BodyLimit = {
  maxBytes: number;
  fault: FaultCode;
  /** If undefined, the parts count towards the memory limit of the connection. */
  onPart?: OnPart;
};

export const ENTRY_LIMIT: BodyLimit = { maxBytes: LIMITS.entryBytes, fault: 'BODY_TOO_LARGE' };

/** The client closed the connection, so no answer is possible. */
export class ClientDisconnected extends Error {
  override name = 'ClientDisconnected';
}

const EMPTY = Buffer.alloc(0);
const MIN_GROWN_BYTES = 1024;

const NOT_JSON = /^\s*(application\/x-www-form-urlencoded|multipart\/)/i;

/**
 * Reads a JSON body, compressed or not. It accepts almost any content type, because `fetch` labels a string body
 * text/plain. It calls `onBody` once, or `onError` once; if `onBody` throws, it calls `onError` with that error. It
 * uses callbacks because a promise would cost time for every entry.
 * @param onError gets the Fault of the limit, CHUNKS_TOO_SMALL, an error of `onPart` or `inflate`, or
 * ClientDisconnected
 * @throws Fault MEDIA_TYPE_UNSUPPORTED, BODY_COMPRESSED or the one of the limit, if the headers show it
 */
export function readBody(
  request: IncomingMessage,
  context: RequestContext,
  onBody: (body: Buffer) => void,
  onError: (error: unknown) => void,
  { limit, inflate }: { limit: BodyLimit; inflate: Inflate },
): void {
  const { 'content-type': type, 'content-length': length } = request.headers;
  if (type !== undefined && NOT_JSON.test(type)) throw new Fault('MEDIA_TYPE_UNSUPPORTED');
  const coding = findCoding(request);
  if (Number(length) > MAX_DRAINED_BYTES) throw new Fault(limit.fault);
  const reader = new BodyReader(request, context, onBody, onError, limit);
  if (coding) {
    const onCompressed = toInflate(reader, coding, context, limit, inflate);
    takeBody(request, new BodyReader(request, context, onCompressed, onError, limit));
  } else takeBody(request, reader);
}

/** @returns what to do with a compressed body: inflate it into `reader` */
function toInflate(
  reader: BodyReader,
  coding: Coding,
  context: RequestContext,
  limit: BodyLimit,
  inflate: Inflate,
): (body: Buffer) => void {
  const { projectId, socket } = context;
  const onPart = (part: Buffer) => reader.onPart(part);
  return (body) => {
    context.bodyBytes = COMPRESSED_WEIGHT * body.length;
    inflate(projectId, { ...limit, coding, body, socket, onPart }).then(
      () => reader.onEnd(),
      (error) => reader.onRefuse(error),
    );
  };
}

/** Per received byte, inflating the most expensive body takes up to twice as long as processing valid entries. */
const COMPRESSED_WEIGHT = 2;

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
    this.#countBytes();
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
    this.#countBytes();
    this.#body = EMPTY;
    this.#onError(error);
  }

  /** For a compressed body, raises the count of received bytes to the inflated size if that is larger. */
  #countBytes(): void {
    this.#context.bodyBytes = Math.max(this.#context.bodyBytes, this.#size);
  }
}

type Coding = 'gzip' | 'deflate';

const CODINGS: Record<string, Coding | undefined> = {
  '': undefined,
  identity: undefined,
  gzip: 'gzip',
  'x-gzip': 'gzip', // RFC 9110, 8.4.1.3
  deflate: 'deflate',
};

/** @returns undefined if the body is not compressed @throws Fault BODY_COMPRESSED for a coding that is not supported */
export function findCoding({ headers: { 'content-encoding': encoding } }: IncomingMessage): Coding | undefined {
  if (encoding === undefined) return undefined;
  const name = encoding.trim().toLowerCase();
  if (Object.hasOwn(CODINGS, name)) return CODINGS[name];
  throw new Fault('BODY_COMPRESSED');
}

/** A compressed body, and what to do with each inflated part. */
type Compressed = Pick<BodyLimit, 'maxBytes' | 'fault'> & {
  coding: Coding;
  body: Buffer;
  socket: { readonly destroyed: boolean };
  onPart: (part: Buffer) => void;
};

/**
 * Inflates a body when it is the project's turn. Passes on at most `maxBytes`.
 * @throws Fault GZIP_INVALID, DEFLATE_INVALID, OVERLOADED or the Fault of the limit, or ClientDisconnected
 */
export type Inflate = (projectId: number, compressed: Compressed) => Promise<void>;

/** Half of the threads of Node's pool, which also resolves the host names of the stores. */
const MAX_INFLATIONS = 2;
const MAX_INFLATIONS_PER_PROJECT = 1;

/**
 * Inflates bodies in the thread pool. The most expensive body of 1 MiB keeps a thread busy for 0.1 s, so projects take
 * turns.
 * @param maxWaitMs how long a body may wait for its turn
 */
export function createInflater({ maxWaitMs, onShed }: { maxWaitMs: number; onShed: OnShed }): Inflate {
  const turns = new GroupCommit<number, Compressed, undefined>({
    async commit(_projectId, [compressed]) {
      await inflateAll(compressed as Compressed);
      return [undefined];
    },
    maxBatch: 1,
    maxInFlight: MAX_INFLATIONS,
    maxInFlightPerPartition: MAX_INFLATIONS_PER_PROJECT,
    refuse({ socket }) {
      return socket.destroyed ? new ClientDisconnected('client disconnected before the body was inflated') : undefined;
    },
    expiry: { maxWaitMs, toError: () => shed(onShed, 'waited') },
  });
  return (projectId, compressed) => turns.run(projectId, compressed);
}

const MIN_INFLATED_BYTES = 64 * 1024;
/** JSON rarely shrinks more, so one turn of the event loop is usually enough to inflate a body. */
const USUAL_RATIO = 12;

function inflateAll({ coding, body, maxBytes, fault, onPart }: Compressed): Promise<void> {
  const chunkSize = Math.min(maxBytes + 1, Math.max(MIN_INFLATED_BYTES, USUAL_RATIO * body.length));
  const engine = coding === 'gzip' ? createGunzip({ chunkSize }) : createInflate({ chunkSize });
  const toInvalid = (cause?: unknown) => new Fault(coding === 'gzip' ? 'GZIP_INVALID' : 'DEFLATE_INVALID', { cause });
  let left = maxBytes;
  return new Promise((resolve, reject) => {
    engine.on('data', (inflated: Buffer) => {
      const part = inflated.subarray(0, left);
      // A small view would keep all of its chunk in memory.
      onPart(2 * part.length < chunkSize ? Buffer.from(part) : part);
      left -= inflated.length;
      if (left < 0) engine.destroy(new Fault(fault));
    });
    engine.on('error', (error) => reject(error instanceof Fault ? error : toInvalid(error)));
    // Bytes behind the end of the compressed data are left over.
    engine.on('end', () => (engine.bytesWritten === body.length ? resolve() : reject(toInvalid())));
    engine.end(body);
  });
}
