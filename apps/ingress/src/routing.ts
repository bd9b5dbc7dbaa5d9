import { Fault } from '@opm/contract';
import type { RequestHandler } from 'express';
import type { Authenticate } from './authenticate.js';

/** Checks the key where one is given: a wrong key is a 401 on any route, known or not. */
export function identifyProject(authenticate: Authenticate): RequestHandler {
  return async (request, response, next) => {
    const apiKey = request.headers['x-api-key'];
    if (apiKey) response.locals.projectId = await authenticate(String(apiKey));
    next();
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
