import { once } from 'node:events';
import { createServer, type RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';

export interface ConsoleServer {
  port: number;
  /** Stops at once: a dashboard's request can be repeated, and its browser polls for ever. */
  close(): Promise<void>;
}

/** Listens on `port` (0 picks a free one). Rejects with Node's error when it can't, such as EADDRINUSE. */
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
