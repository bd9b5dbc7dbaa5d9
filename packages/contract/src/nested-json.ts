const [QUOTE, BACKSLASH, SPACE, U] = [0x22, 0x5c, 0x20, 0x75];
const [OPEN_ARRAY, CLOSE_ARRAY, OPEN_OBJECT, CLOSE_OBJECT] = [0x5b, 0x5d, 0x7b, 0x7d];
const [COMMA, COLON, PLUS, MINUS, DOT, ZERO] = [0x2c, 0x3a, 0x2b, 0x2d, 0x2e, 0x30];

const BLANK = toTable(' \t\r\n');
const DIGIT = toTable('0123456789');
const HEX_DIGIT = toTable('0123456789abcdefABCDEF');
const ESCAPED = toTable('"\\/bfnrt');
const EXPONENT = toTable('eE');
const LITERALS = new Map(['true', 'false', 'null'].map((literal) => [literal.charCodeAt(0), literal]));

/**
 * Replaces the contents of arrays and objects nested deeper than `depth` with spaces. Checks these contents against the
 * grammar of RFC 8259, and leaves the rest for `JSON.parse` to check.
 * @param json valid UTF-8
 * @returns a copy
 * @throws SyntaxError
 */
export function emptyNested(json: Buffer, depth: number): Buffer {
  const emptied = Buffer.from(json);
  const closers: number[] = [];
  let open = 0;
  for (let at = 0; at < json.length; at++) {
    const byte = json[at] as number;
    if (byte === QUOTE) at = skipText(json, at) - 1;
    else if (byte === CLOSE_ARRAY || byte === CLOSE_OBJECT) open--;
    else if (byte === OPEN_ARRAY || byte === OPEN_OBJECT) {
      if (open < depth) open++;
      else {
        const last = skipContainer(json, at, closers) - 1;
        if (last > at + 1) emptied.fill(SPACE, at + 1, last); // `fill` takes time even for no bytes
        at = last;
      }
    }
  }
  return emptied;
}

/**
 * Skips an array or object, without recursion, which would overflow.
 * @param closers the stack, empty before and after: one array for all calls, which is faster
 * @returns the index after it
 */
function skipContainer(json: Buffer, start: number, closers: number[]): number {
  let at = start;
  for (;;) {
    const opener = json[at] as number;
    if (opener === OPEN_ARRAY || opener === OPEN_OBJECT) {
      const closer = opener + 2; // in ASCII
      closers.push(closer);
      at = skipBlank(json, at + 1);
      if (json[at] !== closer) {
        if (opener === OPEN_OBJECT) at = skipName(json, at);
        continue;
      }
    } else at = skipBlank(json, skipScalar(json, at));
    while (json[at] === closers.at(-1)) {
      closers.pop();
      if (closers.length === 0) return at + 1;
      at = skipBlank(json, at + 1);
    }
    at = skipBlank(json, skipByte(json, at, COMMA));
    if (closers.at(-1) === CLOSE_OBJECT) at = skipName(json, at);
  }
}

/** Skips a property's name, the colon, and blanks after it. */
function skipName(json: Buffer, start: number): number {
  if (json[start] !== QUOTE) throw new SyntaxError();
  const colon = skipBlank(json, skipText(json, start));
  return skipBlank(json, skipByte(json, colon, COLON));
}

function skipScalar(json: Buffer, start: number): number {
  const first = json[start] as number;
  if (first === QUOTE) return skipText(json, start);
  const literal = LITERALS.get(first);
  if (!literal) return skipNumber(json, start);
  for (let i = 1; i < literal.length; i++) skipByte(json, start + i, literal.charCodeAt(i));
  return start + literal.length;
}

function skipText(json: Buffer, start: number): number {
  for (let at = start + 1; at < json.length; at++) {
    const byte = json[at] as number;
    if (byte === QUOTE) return at + 1;
    if (byte < SPACE) break;
    if (byte !== BACKSLASH) continue;
    const escaped = json[++at] as number;
    if (escaped === U) {
      for (const end = at + 4; at < end; at++) if (!HEX_DIGIT[json[at + 1] as number]) throw new SyntaxError();
    } else if (!ESCAPED[escaped]) break;
  }
  throw new SyntaxError();
}

function skipNumber(json: Buffer, start: number): number {
  let at = json[start] === MINUS ? start + 1 : start;
  at = json[at] === ZERO ? at + 1 : skipDigits(json, at);
  if (json[at] === DOT) at = skipDigits(json, at + 1);
  if (!EXPONENT[json[at] as number]) return at;
  at++;
  return skipDigits(json, json[at] === PLUS || json[at] === MINUS ? at + 1 : at);
}

function skipDigits(json: Buffer, start: number): number {
  const end = skipAll(json, start, DIGIT);
  if (end === start) throw new SyntaxError();
  return end;
}

function skipByte(json: Buffer, at: number, byte: number): number {
  if (json[at] !== byte) throw new SyntaxError();
  return at + 1;
}

/** @returns the index of the next byte that is not blank, or the length */
export const skipBlank = (json: Buffer, start: number): number => skipAll(json, start, BLANK);

function skipAll(json: Buffer, start: number, table: Uint8Array): number {
  let at = start;
  while (table[json[at] as number]) at++;
  return at;
}

/** Returns a table that has 1 at each of these characters. */
function toTable(characters: string): Uint8Array {
  const table = new Uint8Array(256);
  for (const character of characters) table[character.charCodeAt(0)] = 1;
  return table;
}
