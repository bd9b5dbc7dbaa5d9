import { Fault } from './faults.js';
import { parseJson } from './parse-json.js';

const [QUOTE, BACKSLASH, COMMA] = [0x22, 0x5c, 0x2c];
const [OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Values that stand one behind the other in an array: `bytes` are those of all of them, with the commas, and null where it
 * is one that is too long; `sizes` are the bytes of each.
 */
export type Values = { bytes: Buffer | null; sizes: number[] };

/** Bytes after which others get a chance, where no value has ended. */
const STEP_BYTES = 64 * 1024;

/**
 * Finds the values of a JSON array without parsing any, in groups of at most `maxBytes`, so that nobody has to parse more
 * than that at once; undefined where there is nothing yet. What it gives out is an array exactly where each group is the
 * inside of one, with as many values as it has sizes; what is too long is not looked into.
 * @throws Fault BODY_MALFORMED where that cannot be, or BODY_INVALID for what is no array
 */
export function* splitArray(body: Buffer, maxBytes: number): Generator<Values | undefined> {
  let at = skipBlank(body, 0);
  if (body[at] !== OPEN_ARRAY) throw toNoArray(body, maxBytes);
  let depth = 1;
  let isInText = false;
  /** Of the value that has begun, if any, and behind what is not blank of it. */
  let start = -1;
  let end = -1;
  let mayEnd = true; // not behind a comma
  let groupStart = 0;
  let groupEnd = 0;
  let sizes: number[] = [];
  let nextStep = at + STEP_BYTES;

  for (at++; at < body.length; at++) {
    if (at >= nextStep) {
      nextStep = at + STEP_BYTES;
      yield undefined;
    }
    const byte = body[at] as number;
    if (isInText) {
      if (byte === BACKSLASH) at++;
      else if (byte === QUOTE) isInText = false;
      end = at + 1;
      continue;
    }
    if (isBlankByte(byte)) continue;
    const isOver = depth === 1 && (byte === COMMA || byte === CLOSE_ARRAY);
    if (!isOver) {
      if (start < 0) start = at;
      end = at + 1;
      if (byte === QUOTE) isInText = true;
      else if (byte === OPEN_ARRAY || byte === OPEN_OBJECT) depth++;
      else if ((byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) && --depth === 0) break;
      continue;
    }
    if (start >= 0) {
      const size = end - start;
      if (sizes.length > 0 && (size > maxBytes || end - groupStart > maxBytes)) {
        yield { bytes: body.subarray(groupStart, groupEnd), sizes };
        sizes = [];
      }
      if (size > maxBytes) yield { bytes: null, sizes: [size] };
      else {
        if (sizes.length === 0) groupStart = start;
        groupEnd = end;
        sizes.push(size);
      }
      start = -1;
    } else if (byte === COMMA || !mayEnd) break;
    mayEnd = byte === CLOSE_ARRAY;
    if (byte === COMMA) continue;
    if (sizes.length > 0) yield { bytes: body.subarray(groupStart, groupEnd), sizes };
    if (skipBlank(body, at + 1) < body.length) break;
    return;
  }
  throw new Fault('BODY_MALFORMED');
}

/** A large one is not read to find out what else is wrong with it. */
function toNoArray(body: Buffer, maxBytes: number): Fault {
  if (body.length <= maxBytes) parseJson(body);
  return new Fault('BODY_INVALID', { message: 'body must be array' });
}

/** What stands in `Values.bytes`. @throws Fault BODY_MALFORMED */
export function parseValues({ bytes, sizes }: { bytes: Buffer; sizes: number[] }): unknown[] {
  const values = parseJson(Buffer.concat([OPEN, bytes, CLOSE])) as unknown[];
  if (values.length !== sizes.length) throw new Fault('BODY_MALFORMED');
  return values;
}

const [OPEN, CLOSE] = [Buffer.from('['), Buffer.from(']')];

/** @returns where something begins */
function skipBlank(body: Buffer, start: number): number {
  let at = start;
  while (at < body.length && isBlankByte(body[at] as number)) at++;
  return at;
}

const isBlankByte = (byte: number) => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
