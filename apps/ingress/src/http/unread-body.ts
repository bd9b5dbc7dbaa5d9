import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';

/** A refused body is read up to this size, so that its sender gets the answer and not a connection reset. */
export const MAX_DRAINED_BYTES = 2 * 1024 * 1024;

const LINGER_MS = 5_000;

/** The `content-length`; 0 for a chunked body. */
const declaredBytes = ({ headers }: IncomingMessage): number => Number(headers['content-length'] ?? 0);

export const isChunked = ({ headers }: IncomingMessage): boolean => headers['transfer-encoding'] !== undefined;

/** Whether the body may be larger than `MAX_DRAINED_BYTES`. */
export const mayBeLong = (request: IncomingMessage): boolean =>
  isChunked(request) || declaredBytes(request) > MAX_DRAINED_BYTES;

/** The bytes of a refused body that count against the rate limit: those that have been or will be read. */
export function refusedBytes(request: IncomingMessage, readBytes: number): number {
  return Math.max(readBytes, Math.min(declaredBytes(request), MAX_DRAINED_BYTES));
}

/**
 * Removes the body callback of Node's HTTP parser, so that it skips the rest of a body without a buffer and a call per
 * part. The parser cannot be stopped, and 64 KiB in one-byte chunks would block the event loop for 20 ms. Node reuses
 * parsers, so the callback is restored when the socket closes.
 */
export function dropBody(socket: Socket): void {
  const { parser } = socket as Socket & { parser?: Parser };
  if (!parser) return;
  const index = parser.constructor.kOnBody;
  const onBody = parser[index];
  parser[index] = null;
  socket.once('close', () => {
    parser[index] = onBody;
  });
}

type Parser = { constructor: { kOnBody: number }; [callback: number]: unknown };

/**
 * Changes how Node closes the connection after its last answer: it ends only the sending side, and discards incoming
 * bytes unparsed for up to 5 s. A socket that is closed with unread bytes resets the connection, and the client may
 * then lose the answer.
 */
export function lingerAfterAnswer(socket: Socket): void {
  socket.destroySoon = () => linger(socket);
}

function linger(socket: Socket): void {
  if (socket.destroyed) return;
  let left = MAX_DRAINED_BYTES;
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  socket.once('close', () => clearTimeout(timer));
  socket.end();
  socket.removeAllListeners('data'); // Node's parser
  socket.on('data', (part: Buffer) => {
    left -= part.length;
    if (left < 0) socket.pause(); // not `destroy`: a client that reads while it sends still gets the answer
  });
  socket.once('end', () => socket.destroy());
  socket.resume();
  startReading(socket);
}

/** Restarts reading from the socket: Node's parser stopped the handle, but the stream still considers it as reading. */
function startReading(socket: Socket): void {
  const { _handle: handle } = socket as Socket & { _handle?: { reading: boolean; readStart(): void } };
  if (!handle || handle.reading) return;
  handle.reading = true;
  handle.readStart();
}
