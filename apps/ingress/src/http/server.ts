import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { setTimeout as delay } from 'node:timers/promises';
import { FAULTS, type FaultCode, LIMITS } from '@opm/contract';
import type { Express, Request, Response } from 'express';
import type { TimeBudget } from '../config.js';
import { toHttpClasses } from './fast-express.js';
import { FIXED_HEADERS } from './reply.js';
import { watchConnections } from './watch-connections.js';

export type IngressServer = {
  port: number;
  /**
   * Shuts down. For `closeDelayMs` the server still accepts requests, but each answer closes its connection, so that a
   * busy client does not lose a request. Then it stops accepting, closes idle connections, and resolves when all
   * requests in flight are answered.
   */
  close(): Promise<void>;
};

type IngressServerOptions = {
  app: Express;
  /** The request listener; by default the app itself. */
  handle?: (request: Request, response: Response) => void;
  host?: string | undefined;
  port: number;
  maxConnections: number;
  budget: Pick<TimeBudget, 'headersMs' | 'requestMs'>;
  onConnection?: () => void;
  closeDelayMs: number;
  /** Called for each connection that is closed because of too many unanswered requests or too much memory. */
  onConnectionEnd?: () => void;
};

/**
 * Starts the partners' HTTP server. It disconnects clients that need more than 5 s for the headers or 10 s for the
 * whole request (more if `ANSWER_TIMEOUT_MS` is above 1 s), and those that `watchConnections` closes.
 * @throws the error of `listen`
 */
export async function serveIngress(options: IngressServerOptions): Promise<IngressServer> {
  const { app, handle = app, budget, closeDelayMs, onConnectionEnd } = options;
  const server = createHttpServer(options);
  const connections = watchConnections(server, { onEnd: onConnectionEnd });
  let closing = false;
  const onRequest = (request: IncomingMessage, response: ServerResponse<IncomingMessage>) => {
    if (!connections.take(request, response)) return;
    request.url = toPath(request.url ?? '/');
    if (closing) response.setHeader('connection', 'close');
    handle(request as Request, response as Response); // they already have the prototypes of the app
  };
  server.on('request', onRequest);
  server.on('checkExpectation', onRequest); // RFC 9110, 10.1.1: a server may ignore an unknown expectation
  server.on('upgrade', (request: IncomingMessage, socket: Socket, rest: Buffer) => {
    if (connections.isEnding(socket)) return;
    ignoreUpgrade(server, request, { socket, rest, ready: (proceed) => connections.onceAnswered(socket, proceed) });
  });
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    if (connections.isEnding(socket) && error.code !== 'ECONNRESET') {
      if (error.code === 'HPE_INVALID_EOF_STATE') connections.cutOff(socket);
      return;
    }
    if (error.code === 'ECONNRESET' || !socket.writable || !connections.mayAnswer(socket)) socket.destroy();
    else answerUnreadable(error, socket);
  });
  return {
    port: await listen(server, options),
    async close() {
      closing = true;
      await delay(closeDelayMs);
      await stopAccepting(server, connections, budget);
    },
  };
}

function createHttpServer({ app, maxConnections, budget, onConnection }: IngressServerOptions): Server {
  const server = createServer({
    ...toHttpClasses(app),
    requireHostHeader: false, // Node would answer with an empty body; findHeaderFault checks it instead
    headersTimeout: budget.headersMs,
    requestTimeout: budget.requestMs,
    connectionsCheckingInterval: 1_000,
    keepAliveTimeout: 0, // watchConnections closes idle connections
  });
  server.maxConnections = maxConnections;
  if (onConnection) server.on('connection', onConnection);
  // Node silently drops headers above the limit. One more shows findHeaderFault that there were too many.
  server.maxHeadersCount = LIMITS.headers + 1;
  // A client that has closed its sending side can still read the answer. Node has no option for it, only this property.
  return Object.assign(server, { httpAllowHalfOpen: true });
}

/** @returns the port */
async function listen(server: Server, { host, port }: Pick<IngressServerOptions, 'host' | 'port'>): Promise<number> {
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(port, host, resolve);
  });
  return (server.address() as AddressInfo).port;
}

/** Closes idle connections, and resolves when all requests in flight are answered. */
function stopAccepting(
  server: Server,
  connections: ReturnType<typeof watchConnections>,
  { requestMs }: Pick<TimeBudget, 'requestMs'>,
): Promise<void> {
  return new Promise((resolve) => {
    connections.endSilent();
    // Node no longer enforces `requestTimeout` on a closing server.
    const deadline = setTimeout(() => connections.endAll(), requestMs);
    const sweep = setInterval(() => server.closeIdleConnections(), 50);
    server.close(() => {
      clearInterval(sweep);
      clearTimeout(deadline);
      connections.stop();
      resolve();
    });
  });
}

/** Reduces an absolute request URL to its path. Without a path, Express would answer with an HTML page. */
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

/**
 * Answers a request that Node cannot parse, and that never reaches Express, with a JSON body. Closes the connection.
 */
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
  // Otherwise a slow client could still complete its request, and it would be accepted after the 408.
  if (code === 'ERR_HTTP_REQUEST_TIMEOUT') socket.destroySoon();
}

/**
 * Ignores the `upgrade` header of a request (RFC 9110, 7.8). Node's parser stops after such a request, and the bytes
 * already read behind it would be lost. So the request without the header and these bytes go back to the socket, and a
 * new parser reads them.
 * @param ready calls back when the requests before it are answered: their answers belong to the parser that stopped
 */
function ignoreUpgrade(
  server: Server,
  { method, url, httpVersion, rawHeaders }: IncomingMessage,
  { socket, rest, ready }: { socket: Socket; rest: Buffer; ready: (proceed: () => void) => void },
): void {
  let head = `${method} ${url} HTTP/${httpVersion}\r\n`;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    if (rawHeaders[i]?.toLowerCase() !== 'upgrade') head += `${rawHeaders[i]}: ${rawHeaders[i + 1]}\r\n`;
  }
  socket.unshift(Buffer.concat([Buffer.from(`${head}\r\n`, 'latin1'), rest]));
  ready(() => server.emit('connection', socket));
}

/** Finds too many headers, or a missing or repeated `host`; Node's parser accepts these. */
export function findHeaderFault({ rawHeaders, httpVersion }: IncomingMessage): FaultCode | undefined {
  if (rawHeaders.length > 2 * LIMITS.headers) return 'HEADERS_TOO_MANY';
  let hosts = 0;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] as string;
    if (name.length === 4 && name.toLowerCase() === 'host') hosts++;
  }
  return hosts > 1 || (hosts === 0 && httpVersion !== '1.0') ? 'HTTP_INVALID' : undefined;
}
