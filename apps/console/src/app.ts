import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import { ExpressAdapter } from '@bull-board/express';
import express, { type ErrorRequestHandler, type Express } from 'express';
import helmet from 'helmet';
import { guardBoard } from './guard-board.js';
import type { ConsoleLogger } from './logger.js';
import { requirePassword } from './login.js';
import { refuseCrossSite } from './refuse-cross-site.js';

export interface ConsoleAppOptions {
  /** BullMQ queues, on Redis or PostgreSQL. The caller closes them. */
  queues: ConstructorParameters<typeof BullMQAdapter>[0][];
  password: string;
  /** Shows customers' data unmasked. */
  showData?: boolean;
  /** Unless false, nothing can be changed from the dashboard. */
  readOnly?: boolean;
  logger?: ConsoleLogger;
}

/** The Bull dashboard under /queues, behind a password. Throws when the password is empty. */
export function createConsoleApp(options: ConsoleAppOptions): Express {
  const app = express().disable('x-powered-by');
  app.use(secureHeaders());
  app.use(requirePassword(options));
  app.use(refuseCrossSite);
  app.get('/', (_request, response) => response.redirect('/queues'));
  app.use('/queues/api', (_request, response, next) => next(void response.set('cache-control', 'no-store')));
  app.use('/queues', createBoard(options));
  app.use((_request, response) => void response.status(404).type('text').send('not found\n'));
  app.use(hideErrors(options.logger));
  return app;
}

function createBoard({ queues, showData = false, readOnly = true, logger }: ConsoleAppOptions): Express {
  const adapterOptions = { readOnlyMode: readOnly, allowRetries: !readOnly, allowCompletedRetries: false };
  const board = new ExpressAdapter().setBasePath('/queues');
  createBullBoard({
    queues: queues.map((queue) => new BullMQAdapter(queue, adapterOptions)),
    serverAdapter: board,
    options: {
      uiConfig: { boardTitle: 'OPM Partners API' },
      handlerHooks: guardBoard({ showData, readOnly, logger }),
    },
  });
  // The board's own handler would answer with the error's message, which may quote a value.
  board.setErrorHandler((error) => {
    logger?.error({ err: error }, 'dashboard request failed');
    return { status: 500, body: { error: { key: 'ERRORS.INTERNAL_SERVER_ERROR' } } };
  });
  return (board.getRouter() as Express).disable('x-powered-by');
}

/** The board's scripts are files of its own; its styles are partly inline. Its web font stays out: nothing is fetched elsewhere. */
function secureHeaders() {
  return helmet({
    contentSecurityPolicy: {
      useDefaults: false,
      directives: {
        defaultSrc: ["'none'"],
        scriptSrc: ["'self'"],
        styleSrc: ["'self'", "'unsafe-inline'"],
        imgSrc: ["'self'", 'data:'],
        fontSrc: ["'self'"],
        connectSrc: ["'self'"],
        baseUri: ["'self'"],
        formAction: ["'self'"],
        frameAncestors: ["'none'"],
      },
    },
    // Whether the host speaks TLS is for the proxy in front to promise.
    strictTransportSecurity: false,
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
