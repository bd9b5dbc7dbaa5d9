import { FAULTS, Fault } from '@opm/contract';
import type { Logger } from '@opm/runtime';
import express, { type ErrorRequestHandler, type Express, type Request, type Response } from 'express';
import type { AnswerOnce } from './answer-once.js';
import type { Authenticator } from './authenticate.js';
import { deleteEntry } from './delete-entry.js';
import { contextOf } from './express-classes.js';
import { withFastPath } from './fast-path.js';
import type { FindCustomer } from './find-customer.js';
import { findHeaderFault } from './find-header-fault.js';
import { getDocs } from './get-docs.js';
import { getEntry } from './get-entry.js';
import { getOpenApi } from './get-openapi.js';
import { getPing } from './get-ping.js';
import type { Measures } from './measures.js';
import type { Overload } from './overload.js';
import { postEntries } from './post-entries.js';
import { postEntry } from './post-entry.js';
import { type RateLimiter, toTokens } from './rate-limiter.js';
import { HungUp } from './read-body.js';
import { createReply, type Reply } from './reply.js';
import { createReplyOnce } from './reply-once.js';
import { requestIdOf } from './request-id.js';
import { methodNotAllowed, refusePath, refuseWrongKey, requireProject, routeUnknown } from './routing.js';
import { Slices } from './slices.js';
import { isChunked, refusedBytes } from './unread-body.js';

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
  const reply = createReply({ measures, logger });
  const replyOnce = createReplyOnce({ answerOnce, reply });
  const slices = new Slices();
  const app = express();
  app.disable('x-powered-by').disable('etag').set('trust proxy', trustedProxies);

  const authenticated = requireProject(authenticator);
  const hot = [authenticated, postEntry({ overload, rateLimiter, slices, reply, replyOnce })];
  app.post('/entry', hot);
  const { onShed } = measures;
  const batches = { overload, rateLimiter, slices, groupSize, onShed, reply, replyOnce };
  app.post('/entries', authenticated, postEntries(batches));
  app.get('/ping', authenticated, getPing({ reply }));
  app.get('/entry/:customerId', authenticated, getEntry({ overload, findCustomer, reply }));
  app.delete('/entry/:customerId', authenticated, deleteEntry({ overload, rateLimiter, reply, replyOnce }));
  app.use(refuseWrongKey(authenticator));
  const docs = getDocs({ measures });
  app.get('/openapi.json', getOpenApi({ measures }));
  app.get('/docs', docs).get('/docs/:file', docs);
  app.all('/entry', methodNotAllowed('POST'));
  app.all('/entries', methodNotAllowed('POST'));
  app.all('/entry/:customerId', methodNotAllowed('GET, HEAD, DELETE'));
  app.all('/ping', methodNotAllowed('GET, HEAD'));
  for (const path of ['/openapi.json', '/docs', '/docs/:file']) app.all(path, methodNotAllowed('GET, HEAD'));
  app.use(routeUnknown);
  app.use(refusePath(authenticated));
  const onError = answerFault({ reply, rateLimiter, logger });
  app.use(onError);
  const handleGood = withFastPath(app, { method: 'POST', path: '/entry', handlers: hot, onError });
  return {
    app,
    handle(request, response) {
      const fault = findHeaderFault(request);
      if (fault === undefined) handleGood(request, response);
      else reply.fault(response.set('connection', 'close'), new Fault(fault));
    },
  };
}

/** The one place where an error becomes an answer, where its cause is logged, and where what is refused is counted. */
function answerFault(deps: Pick<IngressDeps, 'logger' | 'rateLimiter'> & { reply: Reply }): ErrorRequestHandler {
  const { reply, rateLimiter, logger } = deps;
  return (error, request, response, _next) => {
    if (error instanceof HungUp) return;
    const fault = error instanceof Fault ? error : new Fault('INTERNAL', { cause: error });
    // The cause of a 503 is logged where it is met: once per chunk or outage, not once per request.
    if (fault.code === 'INTERNAL') {
      logger.error({ requestId: requestIdOf(response), err: fault.cause }, 'request failed');
    }
    const context = contextOf(response);
    const isCharged = QUEUEING.has(request.method) && REFUSALS.has(FAULTS[fault.code].statusCode);
    const charged = isCharged
      ? rateLimiter.charge(context, toTokens(refusedBytes(request, context.bodyBytes)))
      : undefined;
    if (charged) charged.then(answer);
    else if (!request.complete && isChunked(request))
      setImmediate(answer); // its end may be read already, and then its connection goes on
    else answer();

    function answer(): void {
      // What nobody gets is not counted as an answer.
      if (response.headersSent || request.socket.destroyed) response.destroy();
      else reply.fault(response, fault);
    }
  };
}

/** What counts against the project's limit: something is wrong with what would have been queued. */
const QUEUEING = new Set(['POST', 'DELETE']);
const REFUSALS = new Set<number>([400, 413, 415]);
