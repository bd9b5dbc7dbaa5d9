import type { IncomingMessage } from 'node:http';
import { type FaultCode, LIMITS } from '@opm/contract';

/** What is wrong with a request's headers that Node's parser lets through. */
export function findHeaderFault({ rawHeaders, httpVersion }: IncomingMessage): FaultCode | undefined {
  if (rawHeaders.length > 2 * LIMITS.headers) return 'HEADERS_TOO_MANY';
  let hosts = 0;
  for (let i = 0; i < rawHeaders.length; i += 2) {
    const name = rawHeaders[i] as string;
    if (name.length === 4 && name.toLowerCase() === 'host') hosts++;
  }
  return hosts > 1 || (hosts === 0 && httpVersion !== '1.0') ? 'HTTP_INVALID' : undefined;
}
