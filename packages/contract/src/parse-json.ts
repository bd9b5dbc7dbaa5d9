import { isUtf8 } from 'node:buffer';
import { Fault } from './faults.js';

/** No bytes are undefined. @throws Fault BODY_MALFORMED */
export function parseJson(body: Buffer | undefined): unknown {
  if (!body || body.length === 0) return undefined;
  if (!isUtf8(body)) throw new Fault('BODY_MALFORMED'); // decoding would put U+FFFD where the partner had something else
  try {
    return JSON.parse(body.toString());
  } catch {
    throw new Fault('BODY_MALFORMED');
  }
}
