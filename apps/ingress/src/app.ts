import { FAULTS, Fault } from '@opm/contract';
import type { Logger } from '@opm/runtime';
import type { ActivityReporter } from '@opm/store';
import express, {
  type ErrorRequestHandler,
  type Express,
  type Request,
  type RequestHandler,
  type Response,
} from 'express';
import type { TimeBudget } from './config.js';
import { type Authenticator, refusePath, refuseWrongKey, requireProject } from './guards/authenticate.js';
import { createBatchMemory, Slices } from './guards/batch-limits.js';
import type { Overload } from './guards/overload.js';
import type { RateLimiter } from './guards/rate-limiter.js';
import { toTokens } from './guards/token-reservation.js';
import { withFastPath } from './http/fast-express.js';
import { ClientDisconnected, createInflater } from './http/read-body.js';
import { createReply, type Reply, requestIdOf } from './http/reply.js';
import { contextOf, refusesEntry } from './http/request-context.js';
import { findHeaderFault } from './http/server.js';
import { isChunked, refusedBytes } from './http/unread-body.js';
import type { AcceptEntries, AcceptEntry } from './ingest/call.js';
import type { AcceptKeyed } from './ingest/idempotency.js';
import type { IngressMetrics } from './metrics.js';
import { getDocs, getOpenApi } from './routes/docs.js';
import {
  createFindEntryState,
  type FindCustomer,
  type FindQueued,
  getEntry,
  getReceipt,
  postReceipts,
} from './routes/get-entry.js';
import { getKeys, getRefused, getUsage, type ListRefused, type ReadProject } from './routes/get-project.js';
import { postEntries } from './routes/post-entries.js';
import { deleteEntry, postEntry } from './routes/post-entry.js';

type IngressDeps = {
  authenticator: Pick<Authenticator, 'authenticate'>;
  overload: Pick<Overload, 'check' | 'checkRead'>;
  rateLimiter: RateLimiter;
  acceptEntry: AcceptEntry;
  acceptEntries: AcceptEntries;
  acceptKeyed: AcceptKeyed;
  budget: Pick<TimeBudget, 'turnMs' | 'workMs'>;
  /** Maximum number of entries in one call of `acceptEntries`. */
  groupSize: number;
  findCustomer: FindCustomer;
  findQueued: FindQueued;
  listRefused: ListRefused;
  readProject: ReadProject;
  /** Number of proxies in front whose `X-Forwarded-For` is trusted for the client's address. */
  trustedProxies: number;
  activity: Pick<ActivityReporter, 'of' | 'onKeyUse' | 'onLatency'>;
  metrics: IngressMetrics;
  logger: Logger;
};

/** `handle` is the request listener: it checks the headers, then calls the fast path or `app`. */
type IngressApp = { app: Express; handle: (request: Request, response: Response) => void };

/** The partners' API. If a request has an API key, the ingress checks it before anything else, on any route. */
export function createIngressApp(deps: IngressDeps): IngressApp {
  const {
    authenticator,
    overload,
    rateLimiter,
    acceptEntry,
    acceptEntries,
    acceptKeyed,
    budget,
    groupSize,
    findCustomer,
    findQueued,
    listRefused,
    readProject,
    trustedProxies,
    activity,
    metrics,
    logger,
  } = deps;
  const reply = createReply({ activity, metrics, logger });
  const slices = new Slices();
  const findEntryState = createFindEntryState(findCustomer, findQueued);
  const { onShed } = metrics;
  const inflate = createInflater({ maxWaitMs: budget.turnMs + budget.workMs, onShed });
  const app = express();
  app.disable('x-powered-by').disable('etag').set('trust proxy', trustedProxies);

  const anyKey = requireProject(authenticator);
  const mayWrite = requireProject(authenticator, 'write');
  const mayRead = requireProject(authenticator, 'read');
  const mayErase = requireProject(authenticator, 'erase');
  const ofEntry = { overload, rateLimiter, acceptEntry, acceptKeyed, reply };
  const hot = [mayWrite, postEntry({ ...ofEntry, slices, inflate })];
  app.post('/entry', hot);
  const memory = createBatchMemory(onShed);
  const batches = { overload, rateLimiter, acceptEntries, acceptKeyed, slices, inflate, groupSize, memory, reply };
  app.post('/entries', mayWrite, postEntries(batches));
  app.get('/ping', anyKey, getPing({ reply }));
  app.get('/entry/:customerId', mayRead, getEntry({ overload, findCustomer, reply }));
  app.get('/entry/:customerId/receipts/:receipt', mayRead, getReceipt({ overload, findEntryState, reply }));
  app.post('/entries/receipts', mayRead, postReceipts({ overload, findEntryState, memory, slices, inflate, reply }));
  app.get('/entries/refused', mayRead, getRefused({ overload, listRefused, reply }));
  const ofProject = { overload, readProject, reply };
  app.get('/keys', mayRead, getKeys(ofProject));
  app.get('/usage', mayRead, getUsage(ofProject));
  app.delete('/entry/:customerId', mayErase, deleteEntry(ofEntry));
  app.use(refuseWrongKey(authenticator));
  const docs = getDocs({ metrics });
  app.get('/openapi.json', getOpenApi({ metrics }));
  app.get('/docs', docs).get('/docs/:file', docs);
  app.all('/entry', methodNotAllowed('POST'));
  app.all('/entries', methodNotAllowed('POST'));
  app.all('/entries/receipts', methodNotAllowed('POST'));
  app.all('/entry/:customerId', methodNotAllowed('GET, HEAD, DELETE'));
  app.all('/entry/:customerId/receipts/:receipt', methodNotAllowed('GET, HEAD'));
  for (const path of ['/entries/refused', '/ping', '/keys', '/usage', '/openapi.json', '/docs', '/docs/:file'])
    app.all(path, methodNotAllowed('GET, HEAD'));
  app.use(routeUnknown);
  app.use(refusePath(anyKey));
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

/**
 * Turns every error into an answer, logs the cause of an unexpected one, and charges refused requests to the rate
 * limit.
 */
function answerFault(deps: Pick<IngressDeps, 'logger' | 'rateLimiter'> & { reply: Reply }): ErrorRequestHandler {
  const { reply, rateLimiter, logger } = deps;
  return (error, request, response, _next) => {
    if (error instanceof ClientDisconnected) return;
    const fault = error instanceof Fault ? error : new Fault('INTERNAL', { cause: error });
    // The code that throws a 503 logs its cause: once per chunk or outage, not once per request.
    if (fault.code === 'INTERNAL') {
      logger.error({ requestId: requestIdOf(response), err: fault.cause }, 'request failed');
    }
    const context = contextOf(response);
    const isCharged = refusesEntry(response) && REFUSALS.has(FAULTS[fault.code].statusCode);
    const charged = isCharged
      ? rateLimiter.charge(context, toTokens(refusedBytes(request, context.bodyBytes)))
      : undefined;
    if (charged) charged.then(answer);
    else if (!request.complete && isChunked(request))
      setImmediate(answer); // the end of the body may already be in memory; then the connection can stay open
    else answer();

    function answer(): void {
      // An answer that the client cannot receive is not counted.
      if (response.headersSent || request.socket.destroyed) response.destroy();
      else reply.fault(response, fault);
    }
  };
}

/** A refused entry counts against the project's rate limit if the answer has one of these statuses. */
const REFUSALS = new Set<number>([400, 413, 415]);

function methodNotAllowed(allowed: string): RequestHandler {
  return (_request, response) => {
    response.setHeader('allow', allowed);
    throw new Fault('METHOD_NOT_ALLOWED');
  };
}

const routeUnknown: RequestHandler = () => {
  throw new Fault('ROUTE_UNKNOWN');
};

/** GET /ping: tells a partner that its API key is valid. */
function getPing({ reply }: { reply: Reply }): RequestHandler {
  return (_request, response) => reply.pong(response);
}
