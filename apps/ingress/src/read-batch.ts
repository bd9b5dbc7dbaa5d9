import type { IncomingMessage } from 'node:http';
import { type Entry, Fault, isBlank, LIMITS, parseEntry, parseJson, splitLines } from '@opm/contract';
import { type BodyLimit, type OnPart, readBody } from './read-body.js';
import { readLines } from './read-lines.js';

/** An entry of a batch, or what the single call would have been told. */
export type BatchItem = Entry | Fault;

const LIMIT: BodyLimit = { maxBytes: LIMITS.batchBytes, maxDrainedBytes: 2 * 1024 * 1024, fault: 'BATCH_TOO_LARGE' };

const LINES = /^\s*application\/(x-)?ndjson\b/i;

/** null where it is too long. */
type Line = Buffer | null;

/** Of a body that is there already, as much is handled at once as sockets give. */
const PART_BYTES = 64 * 1024;

/**
 * The entries of a batch in order, in groups of `groupSize`: an array is read whole, lines are read as they are asked for.
 * @param source the body if it has been read before: then lines, too, are counted before any is given out; else what hears of
 * each part as `readWhole` has it
 * @throws Fault that refuses the batch; of lines, earlier ones may have been given out before. HungUp
 */
export async function* readBatch(
  request: IncomingMessage,
  groupSize: number,
  source: Buffer | OnPart,
): AsyncGenerator<BatchItem[]> {
  const isLines = LINES.test(request.headers['content-type'] ?? '');
  let count = 0;
  let group: BatchItem[] = [];
  for await (const items of isLines ? readItems(request, source) : [await readArray(request, source)]) {
    for (const item of items) {
      if (++count > LIMITS.batchEntries) throw new Fault('BATCH_TOO_LONG');
      group.push(item);
      if (group.length < groupSize) continue;
      yield group;
      group = [];
    }
  }
  if (count === 0) throw new Fault('BATCH_EMPTY');
  if (group.length > 0) yield group;
}

/** The body of a batch. @throws Fault where there is too much of it, or HungUp */
export function readWhole(request: IncomingMessage, onPart: OnPart): Promise<Buffer> {
  return new Promise((resolve, reject) => readBody(request, resolve, reject, { ...LIMIT, onPart }));
}

async function readArray(request: IncomingMessage, source: Buffer | OnPart): Promise<Iterable<BatchItem>> {
  return parseArray(Buffer.isBuffer(source) ? source : await readWhole(request, source));
}

function parseArray(body: Buffer): Iterable<BatchItem> {
  const values = parseJson(body);
  if (!Array.isArray(values)) throw new Fault('BODY_INVALID', { message: 'body must be array' });
  if (values.length > LIMITS.batchEntries) throw new Fault('BATCH_TOO_LONG');
  return toItems(values, (value) => value);
}

async function* readItems(request: IncomingMessage, source: Buffer | OnPart): AsyncGenerator<Iterable<BatchItem>> {
  if (Buffer.isBuffer(source)) yield toItems(await readAllLines(source), parseLine);
  else {
    for await (const lines of readLines(request, { ...LIMIT, onPart: source }, LIMITS.entryBytes)) {
      yield toItems(lines.filter(isEntry), parseLine);
    }
  }
}

/** Too many are known before the first is given out, as with arrays. */
async function readAllLines(body: Buffer): Promise<Line[]> {
  const all: Line[] = [];
  for await (const lines of splitLines(toParts(body), LIMITS.entryBytes)) {
    all.push(...lines.filter(isEntry));
    if (all.length > LIMITS.batchEntries) throw new Fault('BATCH_TOO_LONG');
  }
  return all;
}

function* toParts(body: Buffer): Generator<Buffer> {
  for (let start = 0; start < body.length; start += PART_BYTES) yield body.subarray(start, start + PART_BYTES);
}

const isEntry = (line: Line) => line === null || !isBlank(line);

function parseLine(line: Line): unknown {
  if (line === null) throw new Fault('BODY_TOO_LARGE');
  return parseJson(line);
}

/** One by one as they are asked for: a thousand at once would hold up everybody else. */
function* toItems<Source>(sources: Source[], read: (source: Source) => unknown): Generator<BatchItem> {
  for (const source of sources) {
    try {
      yield parseEntry(read(source));
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      yield error;
    }
  }
}
