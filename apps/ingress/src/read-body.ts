import type { IncomingMessage } from 'node:http';
import { Fault, type FaultCode, LIMITS } from '@opm/contract';

export type BodyLimit = {
  maxBytes: number;
  /** A body that is too large is read to its end up to here, so that its sender reads our answer and not a reset. */
  maxDrainedBytes: number;
  fault: FaultCode;
};

const ENTRY_LIMIT: BodyLimit = {
  maxBytes: LIMITS.entryBytes,
  maxDrainedBytes: 1024 * 1024,
  fault: 'BODY_TOO_LARGE',
};

const EMPTY = Buffer.alloc(0);

const NOT_JSON = /^\s*(application\/x-www-form-urlencoded|multipart\/)/i;

/**
 * Reads the body of JSON, whatever its content type says: `fetch` labels a string body text/plain. One of the two is
 * called, once; `onError` also with what `onBody` throws. They are callbacks and not a promise because this stands in the
 * way of every entry.
 * @param onError gets the limit's Fault, or an Error where the partner hung up
 * @throws Fault MEDIA_TYPE_UNSUPPORTED, BODY_COMPRESSED or the limit's, where the headers tell
 */
export function readBody(
  request: IncomingMessage,
  onBody: (body: Buffer) => void,
  onError: (error: unknown) => void,
  { maxBytes, maxDrainedBytes, fault }: BodyLimit = ENTRY_LIMIT,
): void {
  const { 'content-type': type, 'content-length': length } = request.headers;
  if (type !== undefined && NOT_JSON.test(type)) throw new Fault('MEDIA_TYPE_UNSUPPORTED');
  refuseCompressed(request);
  if (Number(length) > maxDrainedBytes) throw new Fault(fault);

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
    if (size <= maxBytes) parts.push(part);
    else if (size > maxDrainedBytes) refuse(new Fault(fault));
  });
  request.on('end', () => {
    if (isDone) return;
    isDone = true;
    try {
      if (size > maxBytes) throw new Fault(fault);
      const [first = EMPTY] = parts;
      onBody(parts.length > 1 ? Buffer.concat(parts, size) : first);
    } catch (error) {
      onError(error);
    }
  });
  request.on('close', () => {
    if (!isDone) refuse(new Error('the request ended before its body did'));
  });
}

/** @throws Fault BODY_COMPRESSED */
export function refuseCompressed({ headers: { 'content-encoding': encoding } }: IncomingMessage): void {
  if (encoding === undefined || /^\s*(identity)?\s*$/i.test(encoding)) return;
  throw new Fault('BODY_COMPRESSED');
}
