import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { FAULTS, type FaultCode, LIMITS } from '@opm/contract';
import type { Express, Request, Response } from 'express';
import { toHttpClasses } from './express-classes.js';
import { ignoreUpgrade } from './ignore-upgrade.js';
import { FIXED_HEADERS } from './reply.js';
import type { TimeBudget } from './time-budget.js';
import { watchConnections } from './watch-connections.js';

export type IngressServer = {
  port: number;
  /**
   * For `closeDelayMs` goes on as before, but each answer ends its connection: so a client that is busy loses none in the
   * middle of a request. Then stops accepting, ends what is idle, and resolves when the requests under way are answered.
   */
  close(): Promise<void>;
};

/** Slow clients are cut: 5 s for the headers, 10 s for the whole request, and see watchConnections. @throws the error of listen */
export async function serveIngress(options: {
  app: Express;
  /** What is called with each request, where it is not the app itself. */
  handle?: (request: Request, response: Response) => void;
  host?: string | undefined;
  port: number;
  maxConnections: number;
  budget: Pick<TimeBudget, 'headersMs' | 'requestMs'>;
  onConnection?: () => void;
  closeDelayMs: number;
  /** Hears of each connection that is ended for what it holds in memory. */
  onConnectionEnd?: () => void;
}): Promise<IngressServer> {
  const {
    app,
    handle = app,
    host,
    port,
    maxConnections,
    budget,
    onConnection,
    closeDelayMs,
    onConnectionEnd,
  } = options;
  const server = createServer({
    ...toHttpClasses(app),
    requireHostHeader: false, // Node would answer by itself, with an empty body; see findHeaderFault
    headersTimeout: budget.headersMs,
    requestTimeout: budget.requestMs,
    connectionsCheckingInterval: 1_000,
    keepAliveTimeout: 0, // see watchConnections
  });
  server.maxConnections = maxConnections;
  if (onConnection) server.on('connection', onConnection);
  // Node drops what is above; with one more it is known that there was more.
  server.maxHeadersCount = LIMITS.headers + 1;
  // Whoever sends no more may still read. Node has no option for it, only this property, which is as old as its server.
  Object.assign(server, { httpAllowHalfOpen: true });
  const connections = watchConnections(server, { onEnd: onConnectionEnd });
  let closing = false;
  const onRequest = (request: IncomingMessage, response: ServerResponse<IncomingMessage>) => {
    if (!connections.take(request, response)) return;
    request.url = toPath(request.url ?? '/');
    if (closing) response.setHeader('connection', 'close');
    handle(request as Request, response as Response); // their prototypes are the app's
  };
  server.on('request', onRequest);
  server.on('checkExpectation', onRequest); // an expectation that nobody knows may be ignored (RFC 9110, 10.1.1)
  server.on('upgrade', (request: IncomingMessage, socket: Socket, rest: Buffer) => {
    if (connections.isEnding(socket)) return;
    ignoreUpgrade(server, request, { socket, rest, ready: (proceed) => connections.onceAnswered(socket, proceed) });
  });
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    if (connections.isEnding(socket) && error.code !== 'ECONNRESET') return;
    if (error.code === 'ECONNRESET' || !socket.writable || !connections.mayAnswer(socket)) socket.destroy();
    else answerUnreadable(error, socket);
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(port, host, resolve);
  });
  const stopAccepting = () =>
    new Promise<void>((resolve) => {
      connections.endSilent();
      // Node does not watch over the time of requests any more once it is closing.
      const deadline = setTimeout(() => connections.endAll(), budget.requestMs);
      const sweep = setInterval(() => server.closeIdleConnections(), 50);
      server.close(() => {
        clearInterval(sweep);
        clearTimeout(deadline);
        connections.stop();
        resolve();
      });
    });
  return {
    port: (server.address() as AddressInfo).port,
    async close() {
      closing = true;
      await delay(closeDelayMs);
      await stopAccepting();
    },
  };
}

/** A request may name a whole URL. For what has no path, Express would answer by itself, with a page of HTML. */
function toPath(target: string): string {
  if (target.startsWith('/')) return target;
  if (!URL.canParse(target)) return '/';
  const { pathname, search } = new URL(target);
  return pathname.startsWith('/') ? pathname + search : '/';
}

const UNREADABLE: Record<string, FaultCode> = {
  HPE_HEADER_OVERFLOW: 'HEADERS_TOO_LARGE',
  ERR_HTTP_REQUEST_TIMEOUT: 'REQUEST_TOO_SLOW',
};

/** What cannot be read as HTTP never reaches Express; it gets a JSON body all the same, and its connection ends. */
function answerUnreadable({ code = '' }: NodeJS.ErrnoException, socket: Socket): void {
  const { statusCode, error, message } = FAULTS[UNREADABLE[code] ?? 'HTTP_INVALID'];
  const body = JSON.stringify({ statusCode, error, message });
  const head = [
    `HTTP/1.1 ${statusCode} ${error}`,
    `x-request-id: ${randomUUID()}`,
    'connection: close',
    ...FIXED_HEADERS.map(([name, value]) => `${name}: ${value}`),
    `content-length: ${Buffer.byteLength(body)}`,
  ];
  socket.end(`${head.join('\r\n')}\r\n\r\n${body}`);
  // A slow request could still be sent to its end, by who does not hang up, and be taken. The rest of others is not read.
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') socket.destroySoon();
}
