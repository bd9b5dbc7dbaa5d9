import type { IncomingMessage } from 'node:http';
import type { Socket } from 'node:net';

/** A refused body is read up to here, so that its sender reads our answer and not a reset. */
export const MAX_DRAINED_BYTES = 2 * 1024 * 1024;
const LINGER_MS = 5_000;

/** What the headers say; 0 if the body comes in chunks. */
const declaredBytes = ({ headers }: IncomingMessage): number => Number(headers['content-length'] ?? 0);

export const isChunked = ({ headers }: IncomingMessage): boolean => headers['transfer-encoding'] !== undefined;

/** Whether the body may have more bytes than we read of one that nobody wants. */
export const mayBeLong = (request: IncomingMessage): boolean =>
  isChunked(request) || declaredBytes(request) > MAX_DRAINED_BYTES;

/** What a refused body costs: what has been read of it, or will be. */
export function refusedBytes(request: IncomingMessage, readBytes: number): number {
  return Math.max(readBytes, Math.min(declaredBytes(request), MAX_DRAINED_BYTES));
}

/**
 * Has Node's parser go over the rest of a body without a buffer and a call for each part. It cannot be told to stop, and 64 KiB
 * in chunks of a byte are a turn of 20 ms. Node uses parsers again, so this one gets its callback back.
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
 * When Node would end the connection after its last answer, ends only our side of it, and drops what still comes, unparsed.
 * A socket that is closed with bytes to read resets the connection, and then the client may not get the answer.
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
    if (left < 0) socket.pause(); // not the end yet: who reads while they send still get the answer
  });
  socket.once('end', () => socket.destroy());
  socket.resume();
  startReading(socket);
}

/** Node's parser stops the handle past the stream, which then takes it for one that is being read. */
function startReading(socket: Socket): void {
  const { _handle: handle } = socket as Socket & { _handle?: { reading: boolean; readStart(): void } };
  if (!handle || handle.reading) return;
  handle.reading = true;
  handle.readStart();
}
