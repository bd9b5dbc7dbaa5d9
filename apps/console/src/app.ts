import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { fileURLToPath } from 'node:url';
import express, { type ErrorRequestHandler, type Express, type RequestHandler } from 'express';
import helmet from 'helmet';
import { type BoardOptions, createBoard } from './board.js';
import { type Access, type ConsoleLogger, createAccess, refuseCrossSite, requireOperator } from './guard.js';
import { createFormRoutes, createLoginRoutes } from './login.js';
import { LEAST_ROLES, mayChange, operatorOf, recordOutcome, requireRole } from './session.js';

export interface ConsoleAppOptions {
  queues: BoardOptions['queues'];
  store: Access['store'];
  password: string;
  /** Shows customer data unmasked. Default false. */
  showData?: boolean;
  /** Unless false, the console cannot change anything. */
  readOnly?: boolean;
  logger?: ConsoleLogger;
  /** Number of proxies in front whose `X-Forwarded-For` and `X-Forwarded-Proto` are trusted. Default 0. */
  trustedProxies?: number;
  /** How long wrong passwords are counted. Default a minute. */
  attemptsWindowMs?: number;
  projectNamesOf?: BoardOptions['projectNamesOf'];
  /** The pages for operators. Without them, `/` leads to the Bull dashboard. */
  pages?: RequestHandler;
}

const ASSETS = fileURLToPath(new URL('../public', import.meta.url));

/**
 * Creates the pages, and the Bull dashboard under /queues, for operators only.
 * @throws TypeError if the password is empty
 */
export function createConsoleApp(options: ConsoleAppOptions): Express {
  const { queues, showData = false, readOnly = true, logger, trustedProxies = 0, projectNamesOf, pages } = options;
  const app = express().disable('x-powered-by').set('trust proxy', trustedProxies);
  app.use(secureHeaders());
  app.use(refuseCrossSite);
  const access = createAccess(options);
  app.use('/assets', express.static(ASSETS, { index: false }));
  app.use(createLoginRoutes(access));
  app.use(requireOperator(access));
  app.use((_request, response, next) => {
    operatorOf(response).isReadOnly = readOnly;
    next();
  });
  app.use('/queues/api', (_request, response, next) => next(void response.set('cache-control', 'no-store')));
  for (const change of ['post', 'put', 'patch', 'delete'] as const) {
    app[change]('/queues/*path', requireRole(LEAST_ROLES.queues), async (request, response, next) => {
      const row = { actor: operatorOf(response).name, action: `queues ${request.method}`, target: request.path };
      // Not required: pausing a queue must be possible while PostgreSQL is down.
      const attempt = readOnly ? undefined : await access.record(request, row, { isRequired: false });
      response.on('finish', () => {
        if (attempt === undefined || response.statusCode < 400) return;
        const outcome = response.statusCode < 500 ? 'not done' : 'failed';
        void recordOutcome(access.store.audit, request, { row, attempt, outcome });
      });
      next();
    });
  }
  const board = { queues, showData, logger, projectNamesOf };
  const ofOperators = express
    .Router()
    .use(
      (_request, response, next) => next(mayChange(operatorOf(response), 'queues') ? undefined : 'router'),
      createBoard({ ...board, readOnly }),
    );
  app.use('/queues', ofOperators, createBoard({ ...board, readOnly: true }));
  app.use(createFormRoutes(access));
  if (pages) app.use(pages);
  app.get('/', (_request, response) => response.redirect('/queues'));
  app.use((_request, response) => void response.status(404).type('text').send('not found\n'));
  app.use(hideErrors(logger));
  return app;
}

/** Allows our own scripts and styles, and under /queues the board's inline styles. Browsers contact no other host. */
function secureHeaders(): RequestHandler {
  const strict = createHelmet(["'self'"]);
  const ofBoard = createHelmet(["'self'", "'unsafe-inline'"]);
  return (request, response, next) =>
    request.path.startsWith('/queues') ? ofBoard(request, response, next) : strict(request, response, next);
}

function createHelmet(styleSrc: string[]) {
  return helmet({
    contentSecurityPolicy: {
      useDefaults: false,
      directives: {
        defaultSrc: ["'none'"],
        scriptSrc: ["'self'"],
        styleSrc,
        imgSrc: ["'self'", 'data:'],
        fontSrc: ["'self'"],
        connectSrc: ["'self'"],
        baseUri: ["'self'"],
        formAction: ["'self'"],
        frameAncestors: ["'none'"],
      },
    },
    // Only the proxy in front knows whether the host has TLS, so HSTS is left to it.
    strictTransportSecurity: false,
    // With no-referrer, browsers send `Origin: null` with a form, which looks like a form of another site.
    referrerPolicy: { policy: 'same-origin' },
  });
}

function hideErrors(logger?: ConsoleLogger): ErrorRequestHandler {
  return (error, _request, response, next) => {
    if (response.headersSent) return next(error);
    const status = error.status >= 400 && error.status < 500 ? error.status : 500;
    if (status === 500) logger?.error({ err: error }, 'console request failed');
    response.status(status).type('text').send(`error ${status}\n`);
  };
}

interface ConsoleServer {
  port: number;
  /** Stops without draining: requests can be repeated, and the stream of an open page never ends. */
  close(): Promise<void>;
}

/** Listens on `port`; 0 picks a free one. Rejects with Node's error, such as EADDRINUSE, if it cannot. */
export async function serveConsole({
  app,
  port,
  host,
}: {
  app: RequestListener;
  port: number;
  host?: string;
}): Promise<ConsoleServer> {
  const server = createServer(app).listen(port, host);
  await once(server, 'listening');
  return {
    port: (server.address() as AddressInfo).port,
    async close() {
      if (!server.listening) return;
      const closed = once(server, 'close');
      server.close();
      server.closeAllConnections();
      await closed;
    },
  };
}
