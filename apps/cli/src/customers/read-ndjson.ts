import { Fault, isBlank, LIMITS, parseJson, splitLines } from '@opm/contract';
import type { Line } from './line.js';
import { withoutMark } from './without-mark.js';

/** The lines of NDJSON, those that came together together. */
export async function* readNdjson(parts: AsyncIterable<Buffer>): AsyncGenerator<Line[]> {
  let number = 0;
  for await (const lines of splitLines(withoutMark(parts), LIMITS.entryBytes)) {
    const found: Line[] = [];
    for (const line of lines) {
      number++;
      if (line === null) found.push({ number, text: '', toBody: throwTooLarge });
      else if (!isBlank(line)) found.push({ number, text: line.toString(), toBody: () => parseJson(line) });
    }
    yield found;
  }
}

function throwTooLarge(): never {
  throw new Fault('BODY_TOO_LARGE');
}
