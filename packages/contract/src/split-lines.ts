const [NEWLINE, RETURN, TAB, SPACE] = [0x0a, 0x0d, 0x09, 0x20];

/** A line that is not blank, without its end and what is blank in front of it; `bytes` is null where `size` is too much. */
export type Line = { number: number; size: number; bytes: Buffer | null };

/**
 * Finds the lines of NDJSON in its parts as they come in. What is held is one line and one part, however much there is.
 * Blank lines, of what JSON takes for white space, are no entries: nothing is made of them, or a MiB of them would cost more
 * than a MiB of entries.
 */
export class LineSplitter {
  readonly #maxLineBytes: number;
  /** Of lines that were blank. */
  blankBytes = 0;
  #number = 1;
  /** Of the line that has begun, with what is blank in front of it. */
  #size = 0;
  #parts: Buffer[] = [];
  #isBlank = true;

  constructor(maxLineBytes: number) {
    this.#maxLineBytes = maxLineBytes;
  }

  /** The lines that end in this part, found as they are asked for. */
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

  /** The last line, where no end came behind it. */
  end(): Line[] {
    return this.#isBlank ? [] : [this.#take()];
  }

  /** @returns where something begins */
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
    const [first = null] = this.#parts; // there is none where it is too long
    const bytes = this.#parts.length > 1 ? Buffer.concat(this.#parts) : first;
    const line = { number: this.#number++, size: this.#size, bytes };
    this.#parts = [];
    this.#size = 0;
    this.#isBlank = true;
    return line;
  }
}
