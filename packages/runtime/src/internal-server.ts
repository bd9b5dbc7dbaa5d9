import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { withTimeout } from '@opm/core';
import type { Metrics } from './metrics.js';

export type InternalServer = {
  port: number;
  /**
   * `/readyz` answers 503 with the reason, so load balancers send no requests. Undefined lets the health checks
   * decide.
   */
  setUnready(reason: string | undefined): void;
  close(): Promise<void>;
};

/**
 * Serves `/livez`, `/readyz` and `/metrics` on a port that partners cannot reach. Unready until
 * `setUnready(undefined)`.
 * @throws the error of `listen`, such as EADDRINUSE
 */
export async function serveInternal(options: {
  host?: string | undefined;
  port: number;
  health: Health;
  metrics: Metrics;
}): Promise<InternalServer> {
  const { host, port, health, metrics } = options;
  let unready: string | undefined = 'is starting';
  async function answer(path: string | undefined, response: ServerResponse): Promise<void> {
    if (path === '/livez') return reply(response, 200, { live: true });
    if (path === '/metrics') {
      response.setHeader('content-type', metrics.contentType);
      response.end(await metrics.render());
      return;
    }
    if (path !== '/readyz') return reply(response, 404, { paths: ['/livez', '/readyz', '/metrics'] });
    if (unready) return reply(response, 503, { ready: false, checks: { process: unready } });
    const report = await checkAll(health);
    reply(response, report.ready ? 200 : 503, report);
  }
  const server = createServer((request, response) => {
    const [path] = (request.url ?? '').split('?');
    answer(path, response).catch((error: Error) => reply(response, 500, { error: error.message }));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject).listen(port, host, resolve);
  });
  return {
    port: (server.address() as AddressInfo).port,
    setUnready: (reason) => {
      unready = reason;
    },
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}

function reply(response: ServerResponse, status: number, body: object): void {
  response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body));
}

/**
 * Readiness checks by name. A check rejects if the process is not ready; `/readyz` shows the error's message. It may
 * resolve with a warning for a problem that does not make the process unready.
 */
export type Health = Record<string, () => Promise<string | void>>;

type HealthReport = { ready: boolean; checks: Record<string, string> };

const CHECK_TIMEOUT_MS = 2_000;

/** Runs all checks concurrently. A check that takes longer than two seconds fails. */
async function checkAll(health: Health): Promise<HealthReport> {
  let ready = true;
  const results = await Promise.all(
    Object.entries(health).map(async ([name, check]) => {
      try {
        return [name, (await withTimeout(check(), CHECK_TIMEOUT_MS)) ?? 'ok'];
      } catch (error) {
        ready = false;
        return [name, (error as Error).message];
      }
    }),
  );
  return { ready, checks: Object.fromEntries(results) };
}
