import { randomUUID } from 'node:crypto';
import { Fault } from '@opm/contract';
import type { Logger } from '@opm/runtime';
import express, { type ErrorRequestHandler, type Express, type RequestHandler } from 'express';
import type { AcceptEntry } from './accept-entry.js';
import type { Authenticate } from './authenticate.js';
import { getPing } from './get-ping.js';
import { postEntry } from './post-entry.js';
import { type AnswerCounter, createReply, type Reply } from './reply.js';
import { identifyProject, methodNotAllowed, requireProject, routeUnknown } from './routing.js';

export type IngressDeps = {
  authenticate: Authenticate;
  acceptEntry: AcceptEntry;
  answers: AnswerCounter;
  logger: Logger;
};

/** The partner's API. A key that is given is checked before anything else, on any route. */
export function createIngressApp({ authenticate, acceptEntry, answers, logger }: IngressDeps): Express {
  const reply = createReply(answers);
  const app = express();
  app.disable('x-powered-by').disable('etag');

  app.use(assignRequestId);
  app.use(identifyProject(authenticate));
  app.route('/ping').get(requireProject, getPing({ reply })).all(methodNotAllowed('GET, HEAD'));
  app.route('/entry').post(requireProject, postEntry({ acceptEntry, reply })).all(methodNotAllowed('POST'));
  app.use(routeUnknown);
  app.use(answerFault(reply, logger));
  return app;
}

const SANE_REQUEST_ID = /^[\w.:~+/=-]{1,128}$/;

const assignRequestId: RequestHandler = (request, response, next) => {
  const given = request.headers['x-request-id'];
  const requestId = typeof given === 'string' && SANE_REQUEST_ID.test(given) ? given : randomUUID();
  response.setHeader('x-request-id', requestId);
  next();
};

/** The one place where an error becomes an answer, and where its cause is logged. */
function answerFault(reply: Reply, logger: Logger): ErrorRequestHandler {
  return (error, request, response, _next) => {
    if (request.destroyed && !request.complete) return; // the partner hung up in the middle of the body
    const fault = error instanceof Fault ? error : new Fault('INTERNAL', { cause: error });
    // The cause of a 503 is logged where it is met: once per chunk or outage, not once per request.
    if (fault.code === 'INTERNAL') {
      logger.error({ requestId: response.getHeader('x-request-id'), err: fault.cause }, 'request failed');
    }
    if (response.headersSent) response.destroy();
    else reply.fault(response, fault);
  };
}
