import type { ErrorRequestHandler, Express, NextFunction, Request, RequestHandler, Response } from 'express';

export type FastPath = {
  method: string;
  /** As it stands in the request: with a query, or spelled in another way, it is the router's. */
  path: string;
  /** Of the same route in the app. */
  handlers: RequestHandler[];
  onError: ErrorRequestHandler;
};

/**
 * The app, but one route's handlers are called past its router: finding the way to them costs more than they do, a
 * fifteenth of all that an entry costs.
 */
export function withFastPath(app: Express, { method, path, handlers, onError }: FastPath) {
  const route = { path };

  return (request: Request, response: Response): void => {
    if (request.url !== path || request.method !== method) {
      app(request, response);
      return;
    }
    request.res = response; // as the app and its router do
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
