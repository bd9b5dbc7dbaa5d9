import { IncomingMessage, type ServerOptions, ServerResponse } from 'node:http';
import { Fault, LIMITS } from '@opm/contract';
import type { Express, Response as ExpressResponse } from 'express';
import type { Sender } from './rate-limiter.js';
import { dropBody, isChunked, lingerAfterAnswer, mayBeLong } from './unread-body.js';
import type { Connection } from './watch-connections.js';

/**
 * What is known of a request while it is answered, in Express's `response.locals`. Its sender's project is 0 until the key
 * has been checked.
 */
export type RequestContext = Sender & {
  /** When it had been read: its headers, or its body where there is one. In ms as `performance.now()` has it. */
  receivedAt: number;
  /** Of its body, as far as it has been read. */
  bodyBytes: number;
  requestId: string | undefined;
  connection: Connection | undefined;
  /** What its connection keeps in memory for it. */
  heldBytes: number;
};

export const contextOf = (response: ServerResponse) => (response as ExpressResponse).locals as RequestContext;

/** Takes a body as it arrives, and hears how it ends: whole, refused by how it comes, or with the connection. */
export type BodyTaker = { onPart(part: Buffer): void; onEnd(): void; onRefuse(fault: Fault): void; onAbort(): void };

/**
 * Has a request's body go to the taker, past Node's stream, which has no data then, nor an end that was not there before:
 * for a body that comes in one piece, its buffer, its events and their turns cost a twentieth of all that an entry costs.
 */
export const takeBody = (request: IncomingMessage, taker: BodyTaker) => (request as ServedRequest).takeBody(taker);

/** Drops what still comes of a body. If it may be long, no more of it is read, and its connection ends with the answer. */
export function dropRest(request: IncomingMessage): void {
  if (!request.complete && mayBeLong(request)) (request as ServedRequest).stopReading();
  else request.resume();
}

/** Why a body was not read to its end, if it was how it came. */
export const refusalOf = (request: IncomingMessage): Fault | undefined => (request as ServedRequest).refusal;

/** A body that comes in smaller parts than that, and more of them, is read a little at a time. */
const SMALL_PART_BYTES = 64;
const SMALL_PARTS = 1_000;
/** What Node keeps of a part beside its bytes while nobody takes it; measured. */
const PART_BYTES = 350;

/** Lets one of those that wait go on in each turn of the event loop. */
function createTurnstile(): (goOn: () => void) => void {
  const waiting: (() => void)[] = [];
  const next = (): void => {
    waiting.shift()?.();
    if (waiting.length > 0) setImmediate(next);
  };
  return (goOn) => {
    if (waiting.push(goOn) === 1) setImmediate(next);
  };
}

type ServedRequest = IncomingMessage & {
  /** Its response, which exists before anybody handles it. */
  res: ServerResponse | undefined;
  refusal: Fault | undefined;
  takeBody(taker: BodyTaker): void;
  stopReading(): void;
};

/**
 * Classes for `http.createServer` whose prototypes are the app's from the start. Express gives its own prototypes to
 * every request and response that has others, and then V8 throws away what it has optimised for both: that costs more
 * than all the rest of Express. They extend Node's classes, and do not just call them, so that V8 makes room in each
 * object for the properties of these; without, objects outgrow what V8 keeps fast.
 */
export function toHttpClasses(app: Express): Pick<ServerOptions, 'IncomingMessage' | 'ServerResponse'> {
  const turnstile = createTurnstile();
  class Request extends IncomingMessage implements ServedRequest {
    res: ServerResponse | undefined;
    refusal: Fault | undefined;
    #taker: BodyTaker | undefined;
    #smallParts = 0;
    #isHeld = false;
    #isStopped = false;

    takeBody(taker: BodyTaker): void {
      // What is there already; and from the first read on, Node takes the body for one that is being read.
      for (let part: Buffer | null = this.read(); part !== null; part = this.read()) taker.onPart(part);
      if (this.refusal) taker.onRefuse(this.refusal);
      else if (this.complete) taker.onEnd();
      else if (this.destroyed) taker.onAbort();
      else this.#taker = taker;
    }

    /** What Node's parser calls with each part of the body, and with null at its end. False: no more is read for now. */
    override push(part: Buffer | null): boolean {
      if (this.#isStopped) return false;
      if (part && this.#isTooMuch(part)) return this.#refuse(new Fault('CHUNKS_TOO_SMALL'));
      const taker = this.#taker;
      if (!taker) {
        if (part) this.#context?.connection?.hold(this.#context, part.length + PART_BYTES);
        return super.push(part) && !this.#mustWait(part);
      }
      if (part) taker.onPart(part);
      else {
        this.#taker = undefined;
        taker.onEnd();
      }
      return !this.#mustWait(part);
    }

    get #context(): RequestContext | undefined {
      return this.res && contextOf(this.res);
    }

    /** Without chunks each part has been a packet of its own, and has cost its sender as much. */
    #isTooMuch({ length }: Buffer): boolean {
      if (length >= LIMITS.smallChunkBytes || !isChunked(this)) return false;
      return this.#context?.connection?.mayTakeSmallChunk() === false;
    }

    #refuse(fault: Fault): false {
      const taker = this.#taker;
      this.#taker = undefined;
      this.refusal = fault;
      this.stopReading();
      if (taker) taker.onRefuse(fault);
      else super.push(null); // whoever reads the stream finds the refusal at its end
      return false;
    }

    /** What has been read and is not parsed yet is dropped. The connection ends with the answer. */
    stopReading(): void {
      if (this.#isStopped) return;
      this.#isStopped = true;
      if (!this.res?.headersSent) this.res?.setHeader('connection', 'close');
      dropBody(this.socket);
      lingerAfterAnswer(this.socket);
      this.socket.pause();
    }

    /** Chunks of a byte cost so much more than their bytes that what a socket holds of them would be a turn of a second. */
    #mustWait(part: Buffer | null): boolean {
      if (part === null || part.length > SMALL_PART_BYTES || ++this.#smallParts < SMALL_PARTS) return false;
      if (!this.#isHeld) turnstile(() => this.#goOn());
      this.#isHeld = true;
      return true;
    }

    override _read(size: number): void {
      if (!this.#isHeld && !this.#isStopped) super._read(size);
    }

    #goOn(): void {
      this.#isHeld = false;
      this.#smallParts = 0;
      if (this.readableLength < this.readableHighWaterMark) this._read(0); // otherwise whoever reads it does
    }

    override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
      this.#taker?.onAbort();
      this.#taker = undefined;
      if (this.#isStopped)
        done(error); // Node would destroy the connection before the answer
      else super._destroy(error, done);
    }
  }
  class Response<R extends IncomingMessage> extends ServerResponse<R> {
    locals: RequestContext = {
      startedAt: performance.now(),
      receivedAt: performance.now(),
      bodyBytes: 0,
      socket: this.req.socket,
      projectId: 0,
      limit: undefined,
      lease: undefined,
      requestId: undefined,
      connection: undefined,
      heldBytes: 0,
    };

    constructor(...args: ConstructorParameters<typeof ServerResponse<R>>) {
      super(...args);
      (this.req as IncomingMessage as ServedRequest).res = this;
    }

    /** Also of an answer that was given before the body was there. */
    override writeHead(...args: unknown[]): this {
      if (!this.req.complete && mayBeLong(this.req)) (this.req as IncomingMessage as ServedRequest).stopReading();
      return super.writeHead(...(args as [status: number]));
    }
  }
  app.request = Object.setPrototypeOf(Request.prototype, app.request);
  app.response = Object.setPrototypeOf(Response.prototype, app.response);
  return { IncomingMessage: Request, ServerResponse: Response };
}
