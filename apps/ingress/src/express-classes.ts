import { IncomingMessage, type ServerOptions, ServerResponse } from 'node:http';
import type { Express, Response as ExpressResponse } from 'express';
import type { Sender } from './rate-limiter.js';

/**
 * What is known of a request while it is answered, in Express's `response.locals`. Its sender's project is 0 until the key
 * has been checked.
 */
export type RequestContext = Sender & {
  /** When it had been read: its headers, or its body where there is one. In ms as `performance.now()` has it. */
  receivedAt: number;
  requestId: string | undefined;
};

export const contextOf = (response: ExpressResponse) => response.locals as RequestContext;

/**
 * Classes for `http.createServer` whose prototypes are the app's from the start. Express gives its own prototypes to
 * every request and response that has others, and then V8 throws away what it has optimised for both: that costs more
 * than all the rest of Express. They extend Node's classes, and do not just call them, so that V8 makes room in each
 * object for the properties of these; without, objects outgrow what V8 keeps fast.
 */
export function toHttpClasses(app: Express): Pick<ServerOptions, 'IncomingMessage' | 'ServerResponse'> {
  class Request extends IncomingMessage {}
  class Response<R extends IncomingMessage> extends ServerResponse<R> {
    locals: RequestContext = {
      receivedAt: performance.now(),
      projectId: 0,
      limit: undefined,
      lease: undefined,
      requestId: undefined,
    };
  }
  app.request = Object.setPrototypeOf(Request.prototype, app.request);
  app.response = Object.setPrototypeOf(Response.prototype, app.response);
  return { IncomingMessage: Request, ServerResponse: Response };
}
