import { ANSWERS, parseEntry } from '@opm/contract';
import type { RequestHandler } from 'express';
import type { AcceptEntry } from './accept-entry.js';
import { contextOf } from './express-classes.js';
import type { Overload } from './overload.js';
import { readJson } from './read-json.js';
import type { Reply } from './reply.js';

/** POST /entry. The answer promises that the entry is queued durably, not that it is in PostgreSQL yet. */
export function postEntry(deps: {
  overload: Pick<Overload, 'check'>;
  acceptEntry: AcceptEntry;
  reply: Reply;
}): RequestHandler {
  const { overload, acceptEntry, reply } = deps;
  return (request, response, next) => {
    overload.check();
    readJson(request, accept, next);

    function accept(body: unknown): void {
      const context = contextOf(response);
      context.receivedAt = performance.now();
      acceptEntry(context.projectId, parseEntry(body)).then(answer).catch(next);
    }
    function answer({ existed }: { existed: boolean }): void {
      reply.answer(response, existed ? ANSWERS.updateAccepted : ANSWERS.created);
    }
  };
}
