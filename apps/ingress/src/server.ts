import { randomUUID } from 'node:crypto';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import type { Express } from 'express';
import { toHttpClasses } from './express-classes.js';
import { watchConnections } from './watch-connections.js';

export type IngressServer = {
  port: number;
  /** Stops accepting, and resolves when the requests under way are answered. */
  close(): Promise<void>;
};

/** Longer than the 60 s of common load balancers, which otherwise send into a connection that is just closing. */
const IDLE_MS = 65_000;
const REQUEST_TIMEOUT_MS = 10_000;

/** Slow clients are cut: 5 s for the headers, 10 s for the whole request, 65 s between two or for an answer. @throws the error of listen */
export async function serveIngress(options: {
  app: Express;
  host?: string | undefined;
  port: number;
  maxConnections: number;
}): Promise<IngressServer> {
  const { app, host, port, maxConnections } = options;
  const server = createServer({
    ...toHttpClasses(app),
    requireHostHeader: false, // Node would answer by itself, with an empty body
    headersTimeout: 5_000,
    requestTimeout: REQUEST_TIMEOUT_MS,
    connectionsCheckingInterval: 1_000,
    keepAliveTimeout: 0, // see watchConnections
  });
  server.maxConnections = maxConnections;
  const connections = watchConnections(server, IDLE_MS);
  let closing = false;
  const handle = (request: IncomingMessage, response: ServerResponse) => {
    if (closing) response.setHeader('connection', 'close');
    app(request, response);
  };
  server.on('request', handle);
  server.on('checkExpectation', handle); // an expectation that nobody knows may be ignored (RFC 9110, 10.1.1)
  server.on('clientError', answerUnreadable);
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(port, host, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    close: () =>
      new Promise((resolve) => {
        closing = true;
        connections.endSilent();
        // Node does not watch over the time of requests any more once it is closing.
        const deadline = setTimeout(() => server.closeAllConnections(), REQUEST_TIMEOUT_MS);
        const sweep = setInterval(() => server.closeIdleConnections(), 50);
        server.close(() => {
          clearInterval(sweep);
          clearTimeout(deadline);
          connections.stop();
          resolve();
        });
      }),
  };
}

const UNREADABLE: Record<string, [number, string, string]> = {
  HPE_HEADER_OVERFLOW: [431, 'Request Header Fields Too Large', 'headers must not be larger than 16 KiB'],
  ERR_HTTP_REQUEST_TIMEOUT: [408, 'Request Timeout', 'request must arrive within 10 seconds'],
};

/** What cannot be read as HTTP never reaches Express; it gets a JSON body all the same, and its connection ends. */
function answerUnreadable(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const [statusCode, reason, message] = UNREADABLE[error.code ?? ''] ?? [
    400,
    'Bad Request',
    'request must be valid HTTP',
  ];
  const body = JSON.stringify({ statusCode, error: reason, message });
  socket.end(
    `HTTP/1.1 ${statusCode} ${reason}\r\nx-request-id: ${randomUUID()}\r\nconnection: close\r\ncontent-type: application/json; charset=utf-8\r\n` +
      `content-length: ${Buffer.byteLength(body)}\r\n\r\n${body}`,
  );
}
