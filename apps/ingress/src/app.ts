import { Fault } from '@opm/contract';
import type { Logger } from '@opm/runtime';
import express, { type ErrorRequestHandler, type Express } from 'express';
import type { AcceptEntry } from './accept-entry.js';
import type { Authenticator } from './authenticate.js';
import { getPing } from './get-ping.js';
import type { Measures } from './measures.js';
import type { Overload } from './overload.js';
import { postEntry } from './post-entry.js';
import { createReply, type Reply } from './reply.js';
import { requestIdOf } from './request-id.js';
import { methodNotAllowed, refuseWrongKey, requireProject, routeUnknown } from './routing.js';

export type IngressDeps = {
  authenticator: Pick<Authenticator, 'authenticate'>;
  overload: Pick<Overload, 'check'>;
  acceptEntry: AcceptEntry;
  /** Proxies in front of us whose word on the client's address we take. */
  trustedProxies: number;
  measures: Measures;
  logger: Logger;
};

/** The partner's API. A key that is given is checked before anything else, on any route. */
export function createIngressApp(deps: IngressDeps): Express {
  const { authenticator, overload, acceptEntry, trustedProxies, measures, logger } = deps;
  const reply = createReply({ measures, logger });
  const app = express();
  app.disable('x-powered-by').disable('etag').set('trust proxy', trustedProxies);

  const authenticated = requireProject(authenticator);
  // The hot path comes first: each layer of the router in front of it would cost as much as a handler of its own.
  app.post('/entry', authenticated, postEntry({ overload, acceptEntry, reply }));
  app.get('/ping', authenticated, getPing({ reply }));
  app.use(refuseWrongKey(authenticator));
  app.all('/entry', methodNotAllowed('POST'));
  app.all('/ping', methodNotAllowed('GET, HEAD'));
  app.use(routeUnknown);
  app.use(answerFault(reply, logger));
  return app;
}

/** The one place where an error becomes an answer, and where its cause is logged. */
function answerFault(reply: Reply, logger: Logger): ErrorRequestHandler {
  return (error, request, response, _next) => {
    if (request.destroyed && !request.complete) return; // the partner hung up in the middle of the body
    const fault = error instanceof Fault ? error : new Fault('INTERNAL', { cause: error });
    // The cause of a 503 is logged where it is met: once per chunk or outage, not once per request.
    if (fault.code === 'INTERNAL') {
      logger.error({ requestId: requestIdOf(response), err: fault.cause }, 'request failed');
    }
    if (response.headersSent) response.destroy();
    else reply.fault(response, fault);
  };
}
