import { Fault } from '@opm/contract';
import type { RequestHandler } from 'express';
import type { Authenticator } from './authenticate.js';

export const startClock: RequestHandler = (_request, response, next) => {
  response.locals.startedAt = performance.now();
  next();
};

/** Checks the key where one is given: a wrong key is a 401 on any route, known or not. */
export function identifyProject({ authenticate }: Pick<Authenticator, 'authenticate'>): RequestHandler {
  return (request, response, next) => {
    const apiKey = request.headers['x-api-key'];
    if (!apiKey) return next();
    const project = authenticate(String(apiKey), () => request.ip ?? '');
    if (typeof project === 'number') return proceed(project);
    project.then(proceed, next);

    function proceed(projectId: number): void {
      response.locals.projectId = projectId;
      next();
    }
  };
}

export const requireProject: RequestHandler = (_request, response, next) => {
  if (response.locals.projectId === undefined) throw new Fault('KEY_MISSING');
  next();
};

export function methodNotAllowed(allowed: string): RequestHandler {
  return (_request, response) => {
    response.setHeader('allow', allowed);
    throw new Fault('METHOD_NOT_ALLOWED');
  };
}

export const routeUnknown: RequestHandler = () => {
  throw new Fault('ROUTE_UNKNOWN');
};
