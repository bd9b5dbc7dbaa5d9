import { isUtf8 } from 'node:buffer';
import { pipeline } from 'node:stream';
import { entrySchema, Fault, LIMITS } from '@opm/contract';
import { CsvError, type Info, parse } from 'csv-parse';
import { escapeControls } from '../print.js';
import { UserError } from '../user-error.js';
import type { Line } from './line.js';
import { withoutMark } from './without-mark.js';

const PROPERTIES = Object.keys(entrySchema.properties);
/** All of them in one file, too: parts of it may come from other systems. */
const LINE_ENDS = ['\r\n', '\n', '\r'];
/** Nothing else: in Latin-1 what looks like white space may be a part of a letter. */
const OUTER_LINE_ENDS = /^[\r\n]+|[\r\n]+$/g;
const LINES_AT_ONCE = 1_000;
const BYTES_AT_ONCE = 1024 * 1024;
/** Of a record with all its columns. What runs on for longer is taken for one whose quote is not closed. */
const MAX_RECORD_BYTES = 1024 * 1024;

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
    recordDelimiter: LINE_ENDS,
    info: true,
    raw: true,
    skipEmptyLines: true,
    relaxColumnCount: true,
    maxRecordSize: MAX_RECORD_BYTES,
  });
  pipeline(withoutMark(parts), parser, () => {}); // the parser throws whatever goes wrong, below
  let columns: string[] | undefined;
  let lines: Line[] = [];
  let bytes = 0;
  try {
    for await (const { record, raw, info } of parser as AsyncIterable<{ record: string[]; raw: string; info: Info }>) {
      if (!columns) {
        columns = readHeader(record, onIgnored);
        continue;
      }
      lines.push(toLine(columns, record, raw.replace(OUTER_LINE_ENDS, ''), info.lines));
      bytes += raw.length;
      if (lines.length < LINES_AT_ONCE && bytes < BYTES_AT_ONCE) continue;
      yield lines;
      lines = [];
      bytes = 0;
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
  const columns = record.map((name) => decode(name).trim());
  const isThere = (name: string) => columns.includes(name);
  if (!isThere('customerId') || !(isThere('customerEmail') || isThere('customerPhone'))) {
    throw new UserError(
      `its first line must name the columns, customerId and customerEmail or customerPhone among them; known are ` +
        PROPERTIES.join(', '),
    );
  }
  const twice = columns.find((name, i) => columns.indexOf(name) !== i);
  if (twice !== undefined) throw new UserError(`it has two columns "${escapeControls(twice)}"`);
  const ignored = columns.filter((name) => !PROPERTIES.includes(name));
  if (ignored.length > 0) onIgnored(ignored);
  return columns;
}

const decode = (cell: string) => Buffer.from(cell, 'latin1').toString();

const isKnown = ({ column }: { column: string }) => PROPERTIES.includes(column);

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
      const known = columns.map((column, i) => ({ column, cell: record[i] as string })).filter(isKnown);
      const bytesOfCells = known.reduce((sum, { cell }) => sum + cell.length, 0);
      if (bytesOfCells > LIMITS.entryBytes) throw new Fault('BODY_TOO_LARGE');
      return Object.fromEntries(known.map(({ column, cell }) => [column, decode(cell)]));
    },
  };
}
