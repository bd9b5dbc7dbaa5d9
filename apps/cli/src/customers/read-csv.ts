import { isUtf8 } from 'node:buffer';
import { pipeline } from 'node:stream';
import { entrySchema, Fault, LIMITS } from '@opm/contract';
import { CsvError, type Info, parse } from 'csv-parse';
import { UserError } from '../user-error.js';
import type { Line } from './line.js';

const PROPERTIES = Object.keys(entrySchema.properties);
const LINES_AT_ONCE = 1_000;

export type CsvOptions = {
  delimiter: string;
  /** Columns of the first line that are no properties of an entry. */
  onIgnored: (columns: string[]) => void;
};

/**
 * The records of a CSV file (RFC 4180) whose first line names the properties, in any order.
 * @throws UserError where the file is no such thing: where a quote is not closed, nobody knows what the records are
 */
export async function* readCsv(parts: AsyncIterable<Buffer>, options: CsvOptions): AsyncGenerator<Line[]> {
  const { delimiter, onIgnored } = options;
  // Latin-1 keeps each byte as it is, so that what is not UTF-8 can be told.
  const parser = parse({
    delimiter,
    encoding: 'latin1',
    info: true,
    raw: true,
    skipEmptyLines: true,
    relaxColumnCount: true,
    maxRecordSize: LIMITS.entryBytes,
  });
  pipeline(withoutMark(parts), parser, () => {}); // the parser throws whatever goes wrong, below
  let columns: string[] | undefined;
  let lines: Line[] = [];
  try {
    for await (const { record, raw, info } of parser as AsyncIterable<{ record: string[]; raw: string; info: Info }>) {
      if (!columns) {
        columns = readHeader(record, onIgnored);
        continue;
      }
      lines.push(toLine(columns, record, raw.trim(), info.lines));
      if (lines.length < LINES_AT_ONCE) continue;
      yield lines;
      lines = [];
    }
  } catch (error) {
    if (!(error instanceof CsvError)) throw error;
    const [what] = error.message.split(':'); // the rest may quote a cell
    throw new UserError(`it is no CSV from line ${error.lines} on: ${what}`);
  }
  if (!columns) throw new UserError('it is empty: its first line must name the columns');
  yield lines;
}

function readHeader(record: string[], onIgnored: CsvOptions['onIgnored']): string[] {
  const columns = record.map((name) => name.trim());
  const isThere = (name: string) => columns.includes(name);
  if (!isThere('customerId') || !(isThere('customerEmail') || isThere('customerPhone'))) {
    throw new UserError(
      `its first line must name the columns, customerId and customerEmail or customerPhone among them; known are ` +
        PROPERTIES.join(', '),
    );
  }
  const twice = columns.find((name, i) => columns.indexOf(name) !== i);
  if (twice !== undefined) throw new UserError(`it has two columns "${twice}"`);
  const ignored = columns.filter((name) => !PROPERTIES.includes(name));
  if (ignored.length > 0) onIgnored(ignored);
  return columns;
}

function toLine(columns: string[], record: string[], raw: string, number: number): Line {
  const bytes = Buffer.from(raw, 'latin1');
  return {
    number,
    text: bytes.toString(),
    toBody() {
      if (record.length !== columns.length) {
        throw new Fault('BODY_INVALID', { message: `line has ${record.length} columns instead of ${columns.length}` });
      }
      if (!isUtf8(bytes)) throw new Fault('BODY_INVALID', { message: 'line must be UTF-8' });
      const decode = (cell: string) => Buffer.from(cell, 'latin1').toString();
      return Object.fromEntries(columns.map((column, i) => [column, decode(record[i] as string)]));
    },
  };
}

/** Excel begins its CSV with a byte order mark. */
async function* withoutMark(parts: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let isFirst = true;
  for await (const part of parts) {
    yield isFirst && part.subarray(0, 3).equals(MARK) ? part.subarray(3) : part;
    isFirst = false;
  }
}

const MARK = Buffer.from('\ufeff');
