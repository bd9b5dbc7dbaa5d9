import { isUtf8 } from 'node:buffer';
import { randomUUID } from 'node:crypto';
import { closeSync, openSync, readSync, renameSync, rmSync, statSync, writeSync } from 'node:fs';
import { pipeline } from 'node:stream';
import { entrySchema, Fault, type Line as JsonLine, LIMITS, LineSplitter, parseJson } from '@opm/contract';
import { CsvError, type Info, parse } from 'csv-parse';
import { escapeControls, toJson } from '../print.js';
import { toUserError, UserError } from '../user-error.js';

const PROPERTIES = Object.keys(entrySchema.properties);
/** One file may mix them, if parts of it come from different systems. */
const LINE_ENDS = ['\r\n', '\n', '\r'];
/** Only line ends. In bytes decoded as Latin-1, other white space may be part of a UTF-8 character. */
const OUTER_LINE_ENDS = /^[\r\n]+|[\r\n]+$/g;
const LINES_AT_ONCE = 1_000;
const BYTES_AT_ONCE = 1024 * 1024;
/** Maximum size of a record with all its columns. A longer one is treated as an unclosed quote. */
const MAX_RECORD_BYTES = 1024 * 1024;

type CsvOptions = {
  delimiter: string;
  /** Gets the columns that are not properties of an entry. */
  onIgnored: (columns: string[]) => void;
};

/**
 * Reads the records of a CSV file (RFC 4180) whose first line names the properties, in any order.
 * @throws UserError for an invalid file. An unclosed quote ends the import, because the records after it are unknown
 */
export async function* readCsv(parts: AsyncIterable<Buffer>, options: CsvOptions): AsyncGenerator<Line[]> {
  const { delimiter, onIgnored } = options;
  // Latin-1 preserves every byte, so that `toLine` can detect lines that are not UTF-8.
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
  pipeline(withoutByteOrderMark(parts), parser, () => {}); // the loop below throws the parser's errors
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
    throw new UserError(`invalid CSV from line ${error.lines}: ${what}`);
  }
  if (!columns) throw new UserError('the file is empty; its first line must name the columns');
  yield lines;
}

function readHeader(record: string[], onIgnored: CsvOptions['onIgnored']): string[] {
  const columns = record.map((name) => decode(name).trim());
  const isThere = (name: string) => columns.includes(name);
  if (!isThere('customerId') || !(isThere('customerEmail') || isThere('customerPhone'))) {
    throw new UserError(
      `the first line must name the columns: customerId, and customerEmail or customerPhone; known columns are ` +
        PROPERTIES.join(', '),
    );
  }
  const twice = columns.find((name, i) => columns.indexOf(name) !== i);
  if (twice !== undefined) throw new UserError(`duplicate column "${escapeControls(twice)}"`);
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

/** Reads the lines of NDJSON. Yields the lines of one part of the file together. */
export async function* readNdjson(parts: AsyncIterable<Buffer>): AsyncGenerator<Line[]> {
  const splitter = new LineSplitter(LIMITS.entryBytes);
  for await (const part of withoutByteOrderMark(parts)) yield Array.from(splitter.split(part), toJsonLine);
  yield splitter.end().map(toJsonLine);
}

function toJsonLine({ number, bytes }: JsonLine): Line {
  if (bytes === null) return { number, text: '', toBody: throwTooLarge };
  return { number, text: bytes.toString(), toBody: () => parseJson(bytes) };
}

function throwTooLarge(): never {
  throw new Fault('BODY_TOO_LARGE');
}

const BYTE_ORDER_MARK = Buffer.from('\ufeff');

/** Removes the byte order mark that Windows programs such as Excel write before UTF-8. */
async function* withoutByteOrderMark(parts: AsyncIterable<Buffer>): AsyncGenerator<Buffer> {
  let isFirst = true;
  for await (const part of parts) {
    yield isFirst && part.subarray(0, BYTE_ORDER_MARK.length).equals(BYTE_ORDER_MARK)
      ? part.subarray(BYTE_ORDER_MARK.length)
      : part;
    isFirst = false;
  }
}

/** One record of an imported file. `number` is the number of its last line, from 1. */
export type Line = {
  number: number;
  /** The text in the file, for the file of rejected lines. */
  text: string;
  /** Converts the record to a body of POST /entry. @throws Fault with the reason if it cannot be one */
  toBody: () => unknown;
};

type Rejects = {
  add(line: Line, reason: string): void;
  /** `isWhole`: all lines were read. Without rejected lines, the file of an earlier import is then deleted. */
  close(options: { isWhole: boolean }): void;
};

/**
 * Collects rejected lines as NDJSON in a temporary file beside `file`. `close` renames it to `file` if there are any.
 * @throws UserError if `file` cannot be written, or holds something other than rejected lines, which is then kept
 */
export function createRejects(file: string, importedFile: string): Rejects {
  const newFile = `${file}.${randomUUID()}`;
  const descriptor = attempt(() => {
    assertReplaceable(file, importedFile);
    return openSync(newFile, 'wx', 0o600);
  });
  let isEmpty = true;
  return {
    add({ number, text }, reason) {
      isEmpty = false;
      attempt(() => writeSync(descriptor, `${toJson({ line: number, reason, text })}\n`));
    },
    close({ isWhole }) {
      attempt(() => {
        closeSync(descriptor);
        if (!isEmpty) return renameSync(newFile, file);
        rmSync(newFile);
        if (isWhole) rmSync(file, { force: true });
      });
    },
  };

  function attempt<T>(use: () => T): T {
    try {
      return use();
    } catch (error) {
      throw toUserError(error, `${file} cannot be written`);
    }
  }
}

function assertReplaceable(file: string, importedFile: string): void {
  const found = statSync(file, { throwIfNoEntry: false });
  if (!found) return;
  const imported = statSync(importedFile);
  if (found.dev === imported.dev && found.ino === imported.ino) {
    throw new UserError(`${file} is the file to import: choose another one with --rejected`);
  }
  if (!found.isFile() || (found.size > 0 && !isOurs(file))) {
    throw new UserError(`${file} already exists and does not hold rejected lines: choose another one with --rejected`);
  }
}

function isOurs(file: string): boolean {
  const start = Buffer.alloc(64);
  const descriptor = openSync(file, 'r');
  try {
    const length = readSync(descriptor, start);
    return /^\{"line":\d+,"reason":"/.test(start.toString('latin1', 0, length));
  } finally {
    closeSync(descriptor);
  }
}
