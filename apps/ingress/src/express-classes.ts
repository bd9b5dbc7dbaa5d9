import { IncomingMessage, type ServerOptions, ServerResponse } from 'node:http';
import type { Express } from 'express';

/**
 * Classes for `http.createServer` whose prototypes are Express's from the start. Express gives these prototypes to every
 * request and response, and where they have others, V8 throws away what it has optimised for both: that costs more than
 * all the rest of Express. With these it changes nothing.
 */
export function toHttpClasses(app: Express): Pick<ServerOptions, 'IncomingMessage' | 'ServerResponse'> {
  function Request(this: IncomingMessage, ...given: unknown[]) {
    Reflect.apply(IncomingMessage as unknown as Constructor, this, given);
  }
  function Response(this: ServerResponse, ...given: unknown[]) {
    Reflect.apply(ServerResponse as unknown as Constructor, this, given);
  }
  Request.prototype = app.request;
  Response.prototype = app.response;
  return { IncomingMessage: Request, ServerResponse: Response } as object;
}

/** Node's own classes can be called as functions, which their types do not say. */
type Constructor = (...given: unknown[]) => void;
