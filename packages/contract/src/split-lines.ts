const NEWLINE = 0x0a;
const EMPTY = Buffer.alloc(0);

/**
 * The lines of NDJSON as its parts come in, without their ends, one array per part; null for a line of more than
 * `maxLineBytes`. What is held is one line and one part, however much there is.
 */
export async function* splitLines(
  parts: AsyncIterable<Buffer> | Iterable<Buffer>,
  maxLineBytes: number,
): AsyncGenerator<(Buffer | null)[]> {
  const line = createLine(maxLineBytes);
  for await (const part of parts) {
    const lines: (Buffer | null)[] = [];
    let start = 0;
    for (let end = part.indexOf(NEWLINE); end >= 0; end = part.indexOf(NEWLINE, start)) {
      line.add(part.subarray(start, end));
      start = end + 1;
      lines.push(line.take());
    }
    line.add(part.subarray(start));
    yield lines;
  }
  yield [line.take()];
}

function createLine(maxBytes: number) {
  let parts: Buffer[] = [];
  let size = 0;
  return {
    add(part: Buffer): void {
      size += part.length;
      if (size <= maxBytes) parts.push(part);
      else parts = [];
    },
    take(): Buffer | null {
      const [first = EMPTY] = parts;
      const whole = size > maxBytes ? null : parts.length > 1 ? Buffer.concat(parts, size) : first;
      parts = [];
      size = 0;
      return whole;
    },
  };
}

/** What JSON takes for white space: such a line is no entry. */
export const isBlank = (line: Buffer): boolean => line.every((byte) => byte === 0x20 || byte === 0x09 || byte === 0x0d);
