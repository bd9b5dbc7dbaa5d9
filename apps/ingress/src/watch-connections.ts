import type { Server } from 'node:http';
import type { Socket } from 'node:net';

const CHECK_INTERVAL_MS = 5_000;

/**
 * Ends connections over which nothing has moved for that long: idle ones, and those of clients that do not read their
 * answers. Node's own time-outs would set two timers for each request.
 */
export function watchConnections(server: Server, idleMs: number): { endSilent(): void; stop(): void } {
  const seen = new Map<Socket, { bytes: number; since: number }>();
  server.on('connection', (socket: Socket) => {
    seen.set(socket, { bytes: 0, since: performance.now() });
    socket.once('close', () => seen.delete(socket));
  });
  const timer = setInterval(() => {
    const now = performance.now();
    for (const [socket, last] of seen) {
      const bytes = socket.bytesRead + socket.bytesWritten;
      if (bytes !== last.bytes) seen.set(socket, { bytes, since: now });
      else if (now - last.since >= idleMs) socket.destroy();
    }
  }, CHECK_INTERVAL_MS);
  return {
    /** Ends those that have not said a word yet: balancers keep some in stock. */
    endSilent() {
      for (const socket of seen.keys()) if (socket.bytesRead === 0) socket.destroy();
    },
    stop: () => clearInterval(timer),
  };
}
