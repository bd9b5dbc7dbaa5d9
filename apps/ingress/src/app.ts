import { Fault } from '@opm/contract';
import type { Logger } from '@opm/runtime';
import express, { type ErrorRequestHandler, type Express, type Request, type Response } from 'express';
import type { AnswerOnce } from './answer-once.js';
import type { Authenticator } from './authenticate.js';
import { deleteEntry } from './delete-entry.js';
import { withFastPath } from './fast-path.js';
import type { FindCustomer } from './find-customer.js';
import { getDocs } from './get-docs.js';
import { getEntry } from './get-entry.js';
import { getOpenApi } from './get-openapi.js';
import { getPing } from './get-ping.js';
import type { Measures } from './measures.js';
import type { Overload } from './overload.js';
import { postEntries } from './post-entries.js';
import { postEntry } from './post-entry.js';
import type { RateLimiter } from './rate-limiter.js';
import { HungUp } from './read-body.js';
import { createReply, type Reply } from './reply.js';
import { createReplyOnce } from './reply-once.js';
import { requestIdOf } from './request-id.js';
import { methodNotAllowed, refusePath, refuseWrongKey, requireProject, routeUnknown } from './routing.js';

export type IngressDeps = {
  authenticator: Pick<Authenticator, 'authenticate'>;
  overload: Pick<Overload, 'check' | 'checkRead'>;
  rateLimiter: RateLimiter;
  answerOnce: AnswerOnce;
  /** Entries that `acceptEntries` takes at once. */
  groupSize: number;
  findCustomer: FindCustomer;
  /** Proxies in front of us whose word on the client's address we take. */
  trustedProxies: number;
  measures: Measures;
  logger: Logger;
};

/** `handle` is what is called with each request. */
export type IngressApp = { app: Express; handle: (request: Request, response: Response) => void };

/** The partner's API. A key that is given is checked before anything else, on any route. */
export function createIngressApp(deps: IngressDeps): IngressApp {
  const {
    authenticator,
    overload,
    rateLimiter,
    answerOnce,
    groupSize,
    findCustomer,
    trustedProxies,
    measures,
    logger,
  } = deps;
  const { acceptEntry } = rateLimiter;
  const reply = createReply({ measures, logger });
  const replyOnce = createReplyOnce({ answerOnce, reply });
  const app = express();
  app.disable('x-powered-by').disable('etag').set('trust proxy', trustedProxies);

  const authenticated = requireProject(authenticator);
  const hot = [authenticated, postEntry({ overload, acceptEntry, reply, replyOnce })];
  app.post('/entry', hot);
  const { onShed } = measures;
  app.post('/entries', authenticated, postEntries({ overload, rateLimiter, groupSize, onShed, reply, replyOnce }));
  app.get('/ping', authenticated, getPing({ reply }));
  app.get('/entry/:customerId', authenticated, getEntry({ overload, findCustomer, reply }));
  app.delete('/entry/:customerId', authenticated, deleteEntry({ overload, acceptEntry, reply, replyOnce }));
  app.use(refuseWrongKey(authenticator));
  const docs = getDocs({ measures });
  app.get('/openapi.json', getOpenApi({ reply }));
  app.get('/docs', docs).get('/docs/:file', docs);
  app.all('/entry', methodNotAllowed('POST'));
  app.all('/entries', methodNotAllowed('POST'));
  app.all('/entry/:customerId', methodNotAllowed('GET, HEAD, DELETE'));
  app.all('/ping', methodNotAllowed('GET, HEAD'));
  for (const path of ['/openapi.json', '/docs', '/docs/:file']) app.all(path, methodNotAllowed('GET, HEAD'));
  app.use(routeUnknown);
  app.use(refusePath(authenticated));
  const onError = answerFault(reply, logger);
  app.use(onError);
  return { app, handle: withFastPath(app, { method: 'POST', path: '/entry', handlers: hot, onError }) };
}

/** The one place where an error becomes an answer, and where its cause is logged. */
function answerFault(reply: Reply, logger: Logger): ErrorRequestHandler {
  return (error, request, response, _next) => {
    if (error instanceof HungUp) return;
    const fault = error instanceof Fault ? error : new Fault('INTERNAL', { cause: error });
    // The cause of a 503 is logged where it is met: once per chunk or outage, not once per request.
    if (fault.code === 'INTERNAL') {
      logger.error({ requestId: requestIdOf(response), err: fault.cause }, 'request failed');
    }
    // What nobody gets is not counted as an answer.
    if (response.headersSent || request.socket.destroyed) response.destroy();
    else reply.fault(response, fault);
  };
}
