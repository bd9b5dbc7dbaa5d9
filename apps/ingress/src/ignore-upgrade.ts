import type { IncomingMessage, Server } from 'node:http';
import type { Socket } from 'node:net';

/**
 * A request that asks for another protocol is answered as if it did not (RFC 9110, 7.8). Node's parser stops behind one, and
 * what has been read of the requests after it would be lost: so all of it is read once more, without the header that asks.
 * @param ready calls back when the requests before it are answered: their answers belong to the parser that stopped
 */
export function ignoreUpgrade(
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
