import { Fault, type Line as JsonLine, LIMITS, LineSplitter, parseJson } from '@opm/contract';
import type { Line } from './line.js';
import { withoutMark } from './without-mark.js';

/** The lines of NDJSON, those that came together together. */
export async function* readNdjson(parts: AsyncIterable<Buffer>): AsyncGenerator<Line[]> {
  const splitter = new LineSplitter(LIMITS.entryBytes);
  for await (const part of withoutMark(parts)) yield Array.from(splitter.split(part), toLine);
  yield splitter.end().map(toLine);
}

function toLine({ number, bytes }: JsonLine): Line {
  if (bytes === null) return { number, text: '', toBody: throwTooLarge };
  return { number, text: bytes.toString(), toBody: () => parseJson(bytes) };
}

function throwTooLarge(): never {
  throw new Fault('BODY_TOO_LARGE');
}
