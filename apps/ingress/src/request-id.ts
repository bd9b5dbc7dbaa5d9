import { randomUUID } from 'node:crypto';
import type { Response } from 'express';
import { contextOf } from './express-classes.js';

const SANE = /^[\w.:~+/=-]{1,128}$/;

/** What ties an answer to our logs: the caller's own id where it is sane, else a new one; the same however often it is asked. */
export function requestIdOf(response: Response): string {
  const context = contextOf(response);
  context.requestId ??= newRequestId(response.req.headers['x-request-id']);
  return context.requestId;
}

function newRequestId(given: string | string[] | undefined): string {
  return typeof given === 'string' && SANE.test(given) ? given : randomUUID();
}
