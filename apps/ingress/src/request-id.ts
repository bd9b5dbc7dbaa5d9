import { randomUUID } from 'node:crypto';
import type { Response } from 'express';

const SANE = /^[\w.:~+/=-]{1,128}$/;

/** What ties an answer to our logs: the caller's own id where it is sane, else a new one; the same however often it is asked. */
export function requestIdOf(response: Response): string {
  response.locals.requestId ??= newRequestId(response.req.headers['x-request-id']);
  return response.locals.requestId;
}

function newRequestId(given: string | string[] | undefined): string {
  return typeof given === 'string' && SANE.test(given) ? given : randomUUID();
}
