import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { checkAll, type Health } from './health.js';
import type { Metrics } from './metrics.js';

export type InternalServer = {
  port: number;
  /** Until this is called with undefined, `/readyz` answers 503 with the reason, so that load balancers send nothing here. */
  setUnready(reason: string | undefined): void;
  close(): Promise<void>;
};

/** `/livez`, `/readyz` and `/metrics`, on a port that partners do not reach. @throws the error of listen, EADDRINUSE say */
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
