import type { IncomingMessage } from 'node:http';
import { Fault } from '@opm/contract';
import { dropRest, type RequestContext, refusalOf } from './express-classes.js';
import { type BodyLimit, HungUp, refuseCompressed } from './read-body.js';

/**
 * A body as it comes in. No more is read until what is there is handled.
 * @throws Fault of the limit, CHUNKS_TOO_SMALL, or HungUp
 */
export async function* readParts(
  request: IncomingMessage,
  context: RequestContext,
  { maxBytes, fault, onPart }: BodyLimit,
): AsyncGenerator<Buffer> {
  refuseCompressed(request);
  if (Number(request.headers['content-length']) > maxBytes) throw new Fault(fault);
  try {
    // Destroying the request would destroy the connection before the answer.
    for await (const part of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      context.bodyBytes += part.length;
      if (context.bodyBytes > maxBytes) throw new Fault(fault);
      onPart?.(part.length);
      yield part;
    }
    const refusal = refusalOf(request);
    if (refusal) throw refusal;
  } catch (error) {
    throw error instanceof Fault ? error : new HungUp('the connection ended before all was read', { cause: error });
  } finally {
    dropRest(request);
  }
}
