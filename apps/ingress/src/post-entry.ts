import { ANSWERS, parseEntry } from '@opm/contract';
import type { RequestHandler } from 'express';
import type { AcceptEntry } from './accept-entry.js';
import { readJson } from './read-json.js';
import type { Reply } from './reply.js';

/** POST /entry. The answer promises that the entry is queued durably, not that it is in PostgreSQL yet. */
export function postEntry({ acceptEntry, reply }: { acceptEntry: AcceptEntry; reply: Reply }): RequestHandler {
  return async (request, response) => {
    const entry = parseEntry(await readJson(request));
    const { existed } = await acceptEntry(response.locals.projectId, entry);
    reply.answer(response, existed ? ANSWERS.updateAccepted : ANSWERS.created);
  };
}
