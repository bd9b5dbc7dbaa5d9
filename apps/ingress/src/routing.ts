import { Fault } from '@opm/contract';
import type { KeyOwner } from '@opm/store';
import type { ErrorRequestHandler, RequestHandler } from 'express';
import type { Authenticator } from './authenticate.js';
import { contextOf } from './express-classes.js';

/** Lets requests with a good key pass, and remembers whose it is. */
export function requireProject({ authenticate }: Pick<Authenticator, 'authenticate'>): RequestHandler {
  return (request, response, next) => {
    const apiKey = request.headers['x-api-key'];
    if (!apiKey) throw new Fault('KEY_MISSING');
    const owner = authenticate(String(apiKey), request);
    if (!(owner instanceof Promise)) return proceed(owner);
    owner.then(proceed, next);

    function proceed({ projectId, limit }: KeyOwner): void {
      const context = contextOf(response);
      context.projectId = projectId;
      context.limit = limit;
      next();
    }
  };
}

/** Where no key is needed, a wrong one is a 401 all the same. */
export function refuseWrongKey(authenticator: Pick<Authenticator, 'authenticate'>): RequestHandler {
  const requireOwner = requireProject(authenticator);
  return (request, response, next) => (request.headers['x-api-key'] ? requireOwner(request, response, next) : next());
}

export function methodNotAllowed(allowed: string): RequestHandler {
  return (_request, response) => {
    response.setHeader('allow', allowed);
    throw new Fault('METHOD_NOT_ALLOWED');
  };
}

/** A path that cannot be decoded: Express finds that out before any handler could check the key. */
export function refusePath(authenticated: RequestHandler): ErrorRequestHandler {
  return (error, request, response, next) => {
    if (!(error instanceof URIError)) return next(error);
    return authenticated(request, response, (fault) => next(fault ?? new Fault('PATH_MALFORMED')));
  };
}

export const routeUnknown: RequestHandler = () => {
  throw new Fault('ROUTE_UNKNOWN');
};
