import { IncomingMessage, type ServerOptions, ServerResponse, STATUS_CODES } from 'node:http';
import { Fault, LIMITS } from '@opm/contract';
import type { ErrorRequestHandler, Express, NextFunction, Request, RequestHandler, Response } from 'express';
import { contextOf, type RequestContext } from './request-context.js';
import { dropBody, isChunked, lingerAfterAnswer, mayBeLong } from './unread-body.js';

/**
 * Receives the parts of a body and how it ends: complete (`onEnd`), refused because its HTTP chunks are too small
 * (`onRefuse`), or cut off with the connection (`onAbort`).
 */
export type BodyTaker = { onPart(part: Buffer): void; onEnd(): void; onRefuse(fault: Fault): void; onAbort(): void };

/**
 * Passes the body of a request to `taker` and bypasses Node's stream, which then emits neither `data` nor `end`. For a
 * body in one part, the buffer and events of the stream take 1/20 of the total cost of an entry.
 */
export const takeBody = (request: IncomingMessage, taker: BodyTaker) => (request as ServedRequest).takeBody(taker);

/** Discards the rest of a body. If the rest may be long, it is not read, and the connection closes after the answer. */
export function dropRest(request: IncomingMessage): void {
  if (!request.complete && mayBeLong(request)) (request as ServedRequest).stopReading();
  else request.resume();
}

/** The fault CHUNKS_TOO_SMALL if it stopped the reading of the body, else undefined. */
export const refusalOf = (request: IncomingMessage): Fault | undefined => (request as ServedRequest).refusal;

/** After `SMALL_PARTS` parts of at most `SMALL_PART_BYTES`, a body waits for a later turn of the event loop. */
const SMALL_PART_BYTES = 64;
const SMALL_PARTS = 1_000;
/** Memory that Node's stream needs per buffered part besides its bytes; measured. */
const PART_BYTES = 350;

/** Resumes one waiting body per turn of the event loop. */
function createTurnstile(): (resume: () => void) => void {
  const waiting: (() => void)[] = [];
  const next = (): void => {
    waiting.shift()?.();
    if (waiting.length > 0) setImmediate(next);
  };
  return (resume) => {
    if (waiting.push(resume) === 1) setImmediate(next);
  };
}

type ServedRequest = IncomingMessage & {
  /** The response, which Node creates before it emits the request. */
  res: ServerResponse | undefined;
  refusal: Fault | undefined;
  takeBody(taker: BodyTaker): void;
  stopReading(): void;
};

/**
 * Request and response classes for `http.createServer` that already have the prototypes of the Express app. Otherwise
 * Express changes the prototype of every request and response, and V8 discards its optimized code for them; that costs
 * more than all the rest of Express. The classes extend Node's classes, so that V8 reserves space for their properties
 * in each object; without it, objects outgrow V8's fast in-object properties.
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
      // Takes the parts that are already buffered. The call of `read` also marks the body as being read for Node.
      for (let part: Buffer | null = this.read(); part !== null; part = this.read()) taker.onPart(part);
      if (this.refusal) taker.onRefuse(this.refusal);
      else if (this.complete) taker.onEnd();
      else if (this.destroyed) taker.onAbort();
      else this.#taker = taker;
    }

    /**
     * Node's parser calls this with each part of the body and with null at its end.
     * @returns false to stop reading for now
     */
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

    /**
     * Only HTTP chunks count: without them, a small part is a packet, which costs its sender as much as the ingress.
     */
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
      else super.push(null); // the reader of the stream finds `refusal` at its end
      return false;
    }

    /** Stops reading and discards bytes that are not parsed yet. The connection closes after the answer. */
    stopReading(): void {
      if (this.#isStopped) return;
      this.#isStopped = true;
      if (!this.res?.headersSent) this.res?.setHeader('connection', 'close');
      dropBody(this.socket);
      lingerAfterAnswer(this.socket);
      this.socket.pause();
    }

    /** One-byte chunks cost so much that parsing one read of a socket would block the event loop for a second. */
    #mustWait(part: Buffer | null): boolean {
      if (part === null || part.length > SMALL_PART_BYTES || ++this.#smallParts < SMALL_PARTS) return false;
      if (!this.#isHeld) turnstile(() => this.#continueReading());
      this.#isHeld = true;
      return true;
    }

    override _read(size: number): void {
      if (!this.#isHeld && !this.#isStopped) super._read(size);
    }

    #continueReading(): void {
      this.#isHeld = false;
      this.#smallParts = 0;
      if (this.readableLength < this.readableHighWaterMark) this._read(0); // else the reader of the stream calls it
    }

    override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
      this.#taker?.onAbort();
      this.#taker = undefined;
      if (this.#isStopped)
        done(error); // Node's own method would destroy the connection before the answer
      else super._destroy(error, done);
    }
  }
  class Response<R extends IncomingMessage> extends ServerResponse<R> {
    locals: RequestContext = {
      startedAt: performance.now(),
      receivedAt: 0,
      bodyBytes: 0,
      requestIds: undefined,
      socket: this.req.socket,
      projectId: 0,
      limit: undefined,
      reservation: undefined,
      requestId: undefined,
      keyId: 0,
      connection: undefined,
      heldBytes: 0,
      isCounted: false,
    };

    constructor(...args: ConstructorParameters<typeof ServerResponse<R>>) {
      super(...args);
      this.locals.receivedAt = this.locals.startedAt;
      (this.req as IncomingMessage as ServedRequest).res = this;
    }

    /** Also stops reading if the answer is sent before the whole body has arrived. */
    override writeHead(...args: unknown[]): this {
      if (!this.req.complete && mayBeLong(this.req)) (this.req as IncomingMessage as ServedRequest).stopReading();
      return super.writeHead(...(args as [status: number]));
    }
  }
  app.request = Object.setPrototypeOf(Request.prototype, app.request);
  app.response = Object.setPrototypeOf(Response.prototype, app.response);
  return { IncomingMessage: Request, ServerResponse: Response };
}

type FastPath = {
  method: string;
  /** The exact `request.url`. A request with a query or another spelling goes through the router. */
  path: string;
  /** The handlers of the same route in the app. */
  handlers: RequestHandler[];
  onError: ErrorRequestHandler;
};

/**
 * Wraps the app so that the handlers of one route run without the router. The router costs more than these handlers:
 * 1/15 of the total cost of an entry.
 */
export function withFastPath(app: Express, { method, path, handlers, onError }: FastPath) {
  const route = { path };

  return (request: Request, response: Response): void => {
    if (request.url !== path || request.method !== method) {
      app(request, response);
      return;
    }
    request.res = response; // sets the same properties as the app and its router
    request.originalUrl = path;
    request.baseUrl = '';
    request.params = {};
    request.route = route;
    let handled = 0;
    const next: NextFunction = (error?: unknown) => {
      if (error) {
        onError(error, request, response, next);
        return;
      }
      try {
        const done = handlers[handled++]?.(request, response, next);
        if (done instanceof Promise) done.catch(next);
      } catch (thrown) {
        next(thrown);
      }
    };
    next();
  };
}

/**
 * Ends a response. An ASCII body joins the text of the headers, so that one string is written. Node would validate and
 * join each header, and write an empty string behind the body: 1/15 of the total cost of an entry. Node still makes the
 * rest of the headers if others have been set or the connection closes.
 * @param headers one line each, all but `content-length`
 * @returns bytes of the body
 */
export function answerWith(response: Response, status: number, headers: string, body: string): number {
  const length = Buffer.byteLength(body);
  const { req: request, shouldKeepAlive } = response;
  const head = response as Response & { _header: string };
  if (shouldKeepAlive && request.complete && response.getHeaderNames().length === 0) {
    response.statusCode = status;
    const [line, last] = [`HTTP/1.1 ${status} ${STATUS_CODES[status]}`, `Date: ${toDate()}\r\nConnection: keep-alive`];
    head._header = `${line}\r\n${headers}content-length: ${length}\r\n${last}\r\n\r\n`;
  } else {
    response.writeHead(status, { 'content-length': length });
    head._header = head._header.replace('\r\n', () => `\r\n${headers}`);
  }
  if (request.method === 'HEAD') response.end();
  else if (length === body.length) {
    head._header += body;
    response.end();
  } else response.end(body);
  return length;
}

let date = { second: 0, text: '' };
function toDate(): string {
  const second = Math.floor(Date.now() / 1_000);
  if (second !== date.second) date = { second, text: new Date(1_000 * second).toUTCString() };
  return date.text;
}
