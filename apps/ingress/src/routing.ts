import { Fault } from '@opm/contract';
import type { RequestHandler } from 'express';
import type { Authenticator } from './authenticate.js';
import { contextOf } from './express-classes.js';

/** Lets requests with a good key pass, and remembers whose it is. */
export function requireProject({ authenticate }: Pick<Authenticator, 'authenticate'>): RequestHandler {
  return (request, response, next) => {
    const apiKey = request.headers['x-api-key'];
    if (!apiKey) throw new Fault('KEY_MISSING');
    const project = authenticate(String(apiKey), request);
    if (typeof project === 'number') return proceed(project);
    project.then(proceed, next);

    function proceed(projectId: number): void {
      contextOf(response).projectId = projectId;
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

export const routeUnknown: RequestHandler = () => {
  throw new Fault('ROUTE_UNKNOWN');
};
