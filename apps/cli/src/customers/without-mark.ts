const MARK = Buffer.from('\ufeff');

/** Programs of Windows, such as Excel, begin a file of UTF-8 with a byte order mark. */
export async function* withoutMark(parts: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let isFirst = true;
  for await (const part of parts) {
    yield isFirst && part.subarray(0, MARK.length).equals(MARK) ? part.subarray(MARK.length) : part;
    isFirst = false;
  }
}
