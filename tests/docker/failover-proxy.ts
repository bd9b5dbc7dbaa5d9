import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { buffer } from 'node:stream/consumers';

/** Of a connection, and not of what it carries. */
const HOP_BY_HOP = ['connection', 'content-length', 'host', 'keep-alive', 'transfer-encoding'];

/** Less than the client's. */
const ANSWER_TIMEOUT_MS = 5_000;

/** In front of ingresses, on loopback ports: when one is away, it goes on to the next. */
export async function startFailoverProxy(ports: readonly number[]) {
  const unanswered: string[] = [];
  const server = createServer((request, response) => {
    forward(request, response).catch(() => response.destroy()); // the client is gone
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');

  async function forward(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const { method = '', url = '' } = request;
    const body = await buffer(request);
    const headers = Object.entries(request.headers).filter(([name]) => !HOP_BY_HOP.includes(name));
    const init = { method, headers: headers as [string, string][], ...(body.length > 0 && { body }) };
    const reasons: string[] = [];
    for (const port of ports) {
      try {
        const signal = AbortSignal.timeout(ANSWER_TIMEOUT_MS);
        const answer = await fetch(`http://127.0.0.1:${port}${url}`, { ...init, signal });
        const text = await answer.text();
        const kept = [...answer.headers].filter(([name]) => !HOP_BY_HOP.includes(name));
        response.writeHead(answer.status, Object.fromEntries(kept)).end(text);
        return;
      } catch (error) {
        reasons.push(`${port}: ${(error as Error).cause ?? error}`); // on to the next one: an entry may come twice
      }
    }
    unanswered.push(reasons.join('; '));
    response.writeHead(502).end();
  }

  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    /** Of each request that no ingress has answered, what happened at each port. */
    unanswered,
    async stop(): Promise<void> {
      server.close();
      server.closeAllConnections();
      await once(server, 'close');
    },
  };
}
