import { parseJson } from './entry.js';
import { Fault } from './faults.js';
import { skipBlank } from './nested-json.js';

const [NEWLINE, RETURN, TAB, SPACE] = [0x0a, 0x0d, 0x09, 0x20];

/**
 * A line that is not blank. `number` counts from 1, blank lines included. `size` is the number of bytes before the
 * line end. `bytes` is the line without the line end and leading white space; null if `size` exceeds the limit.
 */
export type Line = { number: number; size: number; bytes: Buffer | null };

/**
 * Splits NDJSON into lines while its parts arrive. It holds at most one line and one part in memory. It skips blank
 * lines, which contain only JSON white space, without an object for each. Otherwise 1 MiB of blank lines would cost
 * more than 1 MiB of entries.
 */
export class LineSplitter {
  readonly #maxLineBytes: number;
  /** Number of bytes that were blank lines or leading white space. */
  blankBytes = 0;
  #number = 1;
  /** Bytes of the current line so far, including leading white space. */
  #size = 0;
  #parts: Buffer[] = [];
  #isBlank = true;

  constructor(maxLineBytes: number) {
    this.#maxLineBytes = maxLineBytes;
  }

  /** Yields the lines that end in this part. */
  *split(part: Buffer): Generator<Line> {
    let start = 0;
    while (start < part.length) {
      if (this.#isBlank) start = this.#skipBlank(part, start);
      if (start === part.length) return;
      const end = part.indexOf(NEWLINE, start);
      this.#add(part.subarray(start, end < 0 ? part.length : end));
      if (end < 0) return;
      start = end + 1;
      yield this.#take();
    }
  }

  /** Returns the last line if it has no line end. */
  end(): Line[] {
    return this.#isBlank ? [] : [this.#take()];
  }

  /** @returns the index of the next byte that is not blank, or the part's length */
  #skipBlank(part: Buffer, start: number): number {
    let at = start;
    let lineStart = start - this.#size;
    let lines = 0;
    for (; at < part.length; at++) {
      const byte = part[at];
      if (byte === NEWLINE) {
        lines++;
        lineStart = at + 1;
      } else if (byte !== SPACE && byte !== RETURN && byte !== TAB) break;
    }
    this.#number += lines;
    this.blankBytes += at - start;
    this.#size = at - lineStart;
    return at;
  }

  #add(bytes: Buffer): void {
    this.#isBlank = false;
    this.#size += bytes.length;
    if (this.#size <= this.#maxLineBytes) this.#parts.push(bytes);
    else this.#parts = [];
  }

  #take(): Line {
    const [first = null] = this.#parts; // no parts if the line is too long
    const bytes = this.#parts.length > 1 ? Buffer.concat(this.#parts) : first;
    const line = { number: this.#number++, size: this.#size, bytes };
    this.#parts = [];
    this.#size = 0;
    this.#isBlank = true;
    return line;
  }
}

const [QUOTE, BACKSLASH, COMMA] = [0x22, 0x5c, 0x2c];
const [OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];

/**
 * Consecutive values of an array. `bytes` contains all of them, with the commas between them; null for a single value
 * that is too long. `sizes` is the number of bytes of each value.
 */
export type Values = { bytes: Buffer | null; sizes: number[] };

/** Number of bytes after which `splitArray` yields, so that the caller can let other work run. */
const STEP_BYTES = 64 * 1024;

/**
 * Splits a JSON array into groups of values of at most `maxBytes`, without parsing them, so that no caller parses
 * more than that at once. It yields undefined every 64 KiB, so that the caller can let other work run.
 *
 * It checks only the structure. The body is a valid array if each group passes {@link parseValues}. It does not check
 * values that are too long.
 * @throws Fault BODY_MALFORMED if the structure is invalid, or BODY_INVALID if the body is not an array
 */
export function* splitArray(body: Buffer, maxBytes: number): Generator<Values | undefined> {
  const first = skipBlank(body, 0);
  if (body[first] !== OPEN_ARRAY) throw toNoArray(body, maxBytes);
  const value: Scan = { at: first + 1, depth: 1, isInText: false, start: -1, end: -1 };
  let mayEnd = true; // false after a comma
  let groupStart = 0;
  let groupEnd = 0;
  let sizes: number[] = [];
  let nextStep = value.at + STEP_BYTES;

  for (;;) {
    scan(body, value, Math.min(nextStep, body.length));
    if (value.at >= body.length || value.depth === 0) break;
    if (value.at >= nextStep) {
      nextStep = value.at + STEP_BYTES;
      yield undefined;
      continue;
    }
    const isLast = body[value.at] === CLOSE_ARRAY;
    const { start, end } = value;
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
      value.start = -1;
    } else if (!isLast || !mayEnd) break;
    mayEnd = isLast;
    value.at++;
    if (!isLast) continue;
    if (sizes.length > 0) yield { bytes: body.subarray(groupStart, groupEnd), sizes };
    if (skipBlank(body, value.at) < body.length) break;
    return;
  }
  throw new Fault('BODY_MALFORMED');
}

/**
 * The state of a scan. `at`: the next byte. `depth`: number of open brackets. `start`: first byte of the current value,
 * or -1. `end`: the index after its last byte that is not blank.
 */
type Scan = { at: number; depth: number; isInText: boolean; start: number; end: number };

/**
 * Moves to the comma or bracket that ends the current value, or to `until`, or one byte further within an escape. Also
 * stops at a brace in place of the array's bracket. V8 takes more than twice as long for the same loop in a generator.
 */
function scan(body: Buffer, value: Scan, until: number): void {
  let { at, depth, isInText, start, end } = value;
  for (; at < until; at++) {
    if (!isInText) {
      const byte = body[at] as number;
      if (isBlankByte(byte)) continue;
      if (depth === 1 && (byte === COMMA || byte === CLOSE_ARRAY)) break;
      if (start < 0) start = at;
      end = at + 1;
      if (byte === OPEN_ARRAY || byte === OPEN_OBJECT) depth++;
      else if ((byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) && --depth === 0) break;
      if (byte !== QUOTE) continue;
      isInText = true;
      at++;
    }
    while (at < until && body[at] !== QUOTE) at += body[at] === BACKSLASH ? 2 : 1;
    if (at >= until) break;
    isInText = false;
    end = at + 1;
  }
  value.at = at; // one by one: `Object.assign` takes a sixth of the time of all this
  value.depth = depth;
  value.isInText = isInText;
  value.start = start;
  value.end = end;
}

/** The fault of a body that is not an array. A large body is not parsed to find out whether it is malformed. */
function toNoArray(body: Buffer, maxBytes: number): Fault {
  if (body.length <= maxBytes) parseJson(body);
  return new Fault('BODY_INVALID', { message: 'body must be array' });
}

/** Parses a group of values, each as `parseJson` does. @throws Fault BODY_MALFORMED */
export function parseValues({ bytes, sizes }: { bytes: Buffer; sizes: number[] }): unknown[] {
  const values = parseJson(Buffer.concat([OPEN, bytes, CLOSE]), 2) as unknown[];
  if (values.length !== sizes.length) throw new Fault('BODY_MALFORMED');
  return values;
}

const [OPEN, CLOSE] = [Buffer.from('['), Buffer.from(']')];

const isBlankByte = (byte: number) => byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
