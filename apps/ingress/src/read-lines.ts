import type { IncomingMessage } from 'node:http';
import { Fault, splitLines } from '@opm/contract';
import { type BodyLimit, HungUp, refuseCompressed } from './read-body.js';

/**
 * The lines of a body as they come in; null for one of more than `maxLineBytes`. No more is read until those that are
 * there are handled.
 * @throws Fault of the limit, or HungUp: a line that was cut off is not given out
 */
export async function* readLines(
  request: IncomingMessage,
  { maxBytes, fault, onPart }: BodyLimit,
  maxLineBytes: number,
): AsyncGenerator<(Buffer | null)[]> {
  refuseCompressed(request);
  if (Number(request.headers['content-length']) > maxBytes) throw new Fault(fault);
  try {
    yield* splitLines(readParts(), maxLineBytes);
  } finally {
    request.resume(); // what is left goes nowhere, and the connection goes on
  }

  async function* readParts(): AsyncGenerator<Buffer> {
    let size = 0;
    try {
      // Destroying the request would destroy the connection before the answer.
      for await (const part of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
        size += part.length;
        if (size > maxBytes) throw new Fault(fault);
        onPart?.(part.length);
        yield part;
      }
    } catch (error) {
      throw error instanceof Fault ? error : new HungUp('the connection ended before all was read', { cause: error });
    }
  }
}
