import { once } from 'node:events';
import { createServer, type IncomingHttpHeaders } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { createGunzip } from 'node:zlib';
import { afterEach } from '@jest/globals';
import { OpmClient, type OpmClientOptions } from '../src/index.js';

export interface Received {
  method: string;
  path: string;
  headers: IncomingHttpHeaders;
  /** Decompressed. */
  body: string;
}

/** An answer; `hang` never answers; `cut` destroys the connection. */
export type Reaction = { status: number; body?: unknown; headers?: Record<string, string> } | 'hang' | 'cut';

export interface StubServer {
  url: string;
  received: Received[];
  close(): Promise<void>;
}

/** Starts a server that answers with `react`, for answers that the real server gives too rarely to test with it. */
export async function startStubServer(
  react: (request: Received, count: number) => Reaction | Promise<Reaction>,
): Promise<StubServer> {
  const received: Received[] = [];
  const server = createServer(async (request, response) => {
    const { method = '', url: path = '', headers } = request;
    const content = headers['content-encoding'] === 'gzip' ? request.pipe(createGunzip()) : request;
    const body = await text(content).catch(() => undefined);
    if (body === undefined) return;
    const got = { method, path, headers, body };
    const count = received.push(got);
    const reaction = await react(got, count);
    if (reaction === 'hang') return;
    if (reaction === 'cut') return void request.socket.destroy();
    response.writeHead(reaction.status, { 'x-request-id': `request-${count}`, ...reaction.headers });
    response.end(typeof reaction.body === 'string' ? reaction.body : JSON.stringify(reaction.body));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    received,
    async close() {
      server.closeAllConnections();
      await new Promise((closed) => server.close(closed));
    },
  };
}

/**
 * `start` starts a stub server and a client of it. Both end after the test, as does what it adds to `releases`, the
 * last one first.
 */
export function createStart(apiKey: string) {
  const releases: (() => Promise<void>)[] = [];
  afterEach(async () => {
    for (const release of releases.splice(0).reverse()) await release();
  });
  async function start(react: Parameters<typeof startStubServer>[0], options: Partial<OpmClientOptions> = {}) {
    const server = await startStubServer(react);
    releases.push(server.close);
    const client = new OpmClient({ url: server.url, apiKey, ...options });
    releases.push(() => client.close({ timeoutMs: 0 }));
    return { client, server };
  }
  return { start, releases };
}

export const CREATED = { statusCode: 201, message: 'OK - Created' };
export const UPDATED = { statusCode: 202, message: 'OK - Update accepted' };
export const REFUSED = { statusCode: 503, error: 'Service Unavailable', message: 'entry was not accepted, try again' };

export const LIMITED = { statusCode: 429, error: 'Too Many Requests', message: 'entry was not accepted, try again' };

export const readEntries = ({ body }: Received): Record<string, unknown>[] => JSON.parse(body);

export function toBatchAnswer(results: unknown[], headers: Record<string, string> = {}): Reaction {
  return { status: 207, body: { statusCode: 207, message: 'OK - Multi-Status', results }, headers };
}

export const acceptAll = (request: Received): Reaction => toBatchAnswer(readEntries(request).map(() => CREATED));
