import { randomUUID } from 'node:crypto';
import { REQUEST_ID } from '@opm/contract';
import type { Response } from 'express';
import { contextOf } from './express-classes.js';

/** What ties an answer to our logs: the caller's own id where it is sane, else a new one; the same however often it is asked. */
export function requestIdOf(response: Response): string {
  const context = contextOf(response);
  context.requestId ??= newRequestId(response.req.headers['x-request-id']);
  return context.requestId;
}

function newRequestId(given: string | string[] | undefined): string {
  return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
}
