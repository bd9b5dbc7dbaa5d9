import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import { Fault } from '@opm/contract';

const MAX_BODY_BYTES = 16 * 1024;
/** A body that is too large is read to its end up to here, so that its sender reads our answer and not a reset. */
const MAX_DRAINED_BYTES = 1024 * 1024;

const NOT_JSON = /^\s*(application\/x-www-form-urlencoded|multipart\/)/i;

/**
 * The body as a JSON value, whatever its content type says: `fetch` labels a string body text/plain. No body is undefined.
 * @throws Fault MEDIA_TYPE_UNSUPPORTED, BODY_TOO_LARGE or BODY_MALFORMED; Error where the partner hung up
 */
export async function readJson(request: IncomingMessage): Promise<unknown> {
  if (NOT_JSON.test(request.headers['content-type'] ?? '')) throw new Fault('MEDIA_TYPE_UNSUPPORTED');
  const body = await readBody(request);
  if (body.length === 0) return undefined;
  if (!isUtf8(body)) throw new Fault('BODY_MALFORMED'); // decoding would put U+FFFD where the partner had something else
  try {
    return JSON.parse(body.toString());
  } catch {
    throw new Fault('BODY_MALFORMED');
  }
}

function readBody(request: IncomingMessage): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    const parts: Buffer[] = [];
    let size = 0;
    const refuse = () => {
      parts.length = 0;
      reject(new Fault('BODY_TOO_LARGE'));
    };
    if (Number(request.headers['content-length']) > MAX_DRAINED_BYTES) return refuse();
    request.on('data', (part: Buffer) => {
      size += part.length;
      if (size <= MAX_BODY_BYTES) parts.push(part);
      else if (size > MAX_DRAINED_BYTES) refuse();
    });
    request.on('end', () => (size > MAX_BODY_BYTES ? refuse() : resolve(Buffer.concat(parts, size))));
    request.on('close', () => reject(new Error('the request ended before its body did')));
    request.on('error', reject);
  });
}
