import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import { Fault } from '@opm/contract';

const MAX_BODY_BYTES = 16 * 1024;
/** A body that is too large is read to its end up to here, so that its sender reads our answer and not a reset. */
const MAX_DRAINED_BYTES = 1024 * 1024;

const NOT_JSON = /^\s*(application\/x-www-form-urlencoded|multipart\/)/i;

/**
 * Reads the body as a JSON value, whatever its content type says: `fetch` labels a string body text/plain. No body is
 * undefined. One of the two is called, once; `onError` also with what `onValue` throws. They are callbacks and not a
 * promise because this stands in the way of every entry.
 * @param onError gets Fault BODY_TOO_LARGE or BODY_MALFORMED, or an Error where the partner hung up
 * @throws Fault MEDIA_TYPE_UNSUPPORTED or BODY_TOO_LARGE, where the headers tell
 */
export function readJson(
  request: IncomingMessage,
  onValue: (value: unknown) => void,
  onError: (error: unknown) => void,
): void {
  const { 'content-type': type, 'content-length': length } = request.headers;
  if (type !== undefined && NOT_JSON.test(type)) throw new Fault('MEDIA_TYPE_UNSUPPORTED');
  if (Number(length) > MAX_DRAINED_BYTES) throw new Fault('BODY_TOO_LARGE');

  const parts: Buffer[] = [];
  let size = 0;
  let isDone = false;
  const refuse = (error: unknown) => {
    if (isDone) return;
    isDone = true;
    parts.length = 0;
    onError(error);
  };
  request.on('data', (part: Buffer) => {
    size += part.length;
    if (size <= MAX_BODY_BYTES) parts.push(part);
    else if (size > MAX_DRAINED_BYTES) refuse(new Fault('BODY_TOO_LARGE'));
  });
  request.on('end', () => {
    if (isDone) return;
    isDone = true;
    try {
      if (size > MAX_BODY_BYTES) throw new Fault('BODY_TOO_LARGE');
      onValue(parseJson(parts.length === 1 ? parts[0] : Buffer.concat(parts, size)));
    } catch (error) {
      onError(error);
    }
  });
  request.on('close', () => {
    if (!isDone) refuse(new Error('the request ended before its body did'));
  });
}

function parseJson(body: Buffer | undefined): unknown {
  if (!body || body.length === 0) return undefined;
  if (!isUtf8(body)) throw new Fault('BODY_MALFORMED'); // decoding would put U+FFFD where the partner had something else
  try {
    return JSON.parse(body.toString());
  } catch {
    throw new Fault('BODY_MALFORMED');
  }
}
