import { StoreError } from '@opm/store';
import express, { type ErrorRequestHandler, type RequestHandler, Router } from 'express';
import type { Reads } from '../reads.js';
import { getDeadLetter, getDeadLetters } from './dead-letters.js';
import { getFind } from './find.js';
import { getOverview } from './overview.js';
import { sendPage } from './page.js';
import { getPartner, getPartners } from './partners.js';

/** The pages for operators. They only read. @param showData shows what partners sent unmasked */
export function createPages(reads: Reads, { showData }: { showData: boolean }): RequestHandler {
  const pages = Router();
  pages.use('/assets', express.static(new URL('../../public', import.meta.url).pathname, { index: false }));
  pages.get('/', getOverview(reads));
  pages.get('/partners', getPartners(reads));
  pages.get('/partners/:projectId', getPartner(reads));
  pages.get('/find', getFind(reads, { showData }));
  pages.get('/dead-letters', getDeadLetters(reads));
  pages.get('/dead-letters/:deadLetterId', getDeadLetter(reads, { showData }));
  pages.get(/^\/(partners|dead-letters)\//, (request, response) =>
    sendPage(request, response, { title: 'Not found', children: <p>There is no such page.</p> }, 404),
  );
  pages.use(showOutage);
  return pages;
}

const showOutage: ErrorRequestHandler = (error, request, response, next) => {
  if (!(error instanceof StoreError) || error.kind !== 'outage') return next(error);
  const children = (
    <p>
      PostgreSQL does not answer. <code>docs/runbook.md#postgresql-is-down-or-slow</code>
    </p>
  );
  sendPage(request, response, { title: 'Not available', children }, 503);
};
