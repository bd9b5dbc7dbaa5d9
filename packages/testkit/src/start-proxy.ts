import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { Transform } from 'node:stream';

/** A TCP proxy in front of a server. Tests cut it to simulate an outage. */
export interface TcpProxy {
  /** The server's URL with the proxy's address. */
  url: string;
  /** Ends all connections and refuses new ones. */
  cut(): Promise<void>;
  /** Accepts connections again; does nothing if it already does. */
  restore(): Promise<void>;
  /** Discards all data on the current connections, which stay open. New connections work. */
  swallow(): void;
  /** Holds the server's data until the next `release`. */
  hold(): void;
  release(): void;
  /** Delays all data in both directions by `ms`; later data waits behind it. */
  delay(ms: number): void;
  /** Number of bytes that the server has sent so far. */
  bytesReceived(): number;
  close(): Promise<void>;
}

interface ProxyOptions {
  /** Transforms the server's data on its n-th connection, counted from 0. */
  toClient?: (connection: number) => Transform;
}

/** Starts a proxy to the server of the URL, on a free loopback port that stays the same. */
export async function startProxy(serverUrl: string, { toClient }: ProxyOptions = {}): Promise<TcpProxy> {
  const target = new URL(serverUrl);
  const sockets = new Set<Socket>();
  let delayMs = 0;
  let held: Promise<void> | undefined;
  let release = () => {};
  let connections = 0;
  let received = 0;
  const createDelay = (isAnswer: boolean) =>
    new Transform({
      transform(chunk, _encoding, done) {
        if (isAnswer && held) void held.then(() => done(null, chunk));
        else if (delayMs === 0) done(null, chunk);
        else setTimeout(done, delayMs, null, chunk).unref();
      },
    });
  const server = createServer((client) => {
    const upstream = connect(Number(target.port), target.hostname);
    client.pipe(createDelay(false)).pipe(upstream);
    (toClient ? upstream.pipe(toClient(connections++)) : upstream).pipe(createDelay(true)).pipe(client);
    upstream.on('data', ({ length }) => {
      received += length;
    });
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      const end = () => {
        sockets.delete(socket);
        client.destroy();
        upstream.destroy();
      };
      socket.on('close', end).on('error', end);
    }
  });
  const listen = async (port: number) => {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
  };
  const cut = async () => {
    if (!server.listening) return;
    const closed = once(server, 'close');
    server.close();
    for (const socket of sockets) socket.destroy();
    await closed;
  };
  await listen(0);
  const { port } = server.address() as AddressInfo;
  const url = new URL(serverUrl);
  url.hostname = '127.0.0.1';
  url.port = String(port);
  return {
    url: url.href,
    cut,
    async restore() {
      if (!server.listening) await listen(port);
    },
    swallow() {
      for (const socket of sockets) socket.unpipe().resume();
    },
    hold() {
      held ??= new Promise((resolve) => {
        release = resolve;
      });
    },
    release() {
      held = undefined;
      release();
    },
    delay(ms) {
      delayMs = ms;
    },
    bytesReceived: () => received,
    close: cut,
  };
}
