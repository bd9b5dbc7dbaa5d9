import type { IncomingMessage } from 'node:http';
import { type Entry, Fault, LIMITS, LineSplitter, parseEntry, parseJson, parseValues, splitArray } from '@opm/contract';
import { MAX_CHUNK_BYTES } from './accept-entry.js';
import type { RequestContext } from './express-classes.js';
import { toTokens } from './rate-limiter.js';
import { type BodyLimit, type OnPart, readBody } from './read-body.js';
import { readParts } from './read-parts.js';

/** An entry of a batch, or what the single call would have been told. */
export type BatchItem = Entry | Fault;

export type BatchOptions = {
  context: RequestContext;
  onPart: OnPart;
  /** Entries in one group at most. */
  groupSize: number;
  /** Is asked before each piece of work: resolves when there is time for it; undefined where that is now. */
  nextSlice: () => Promise<void> | undefined;
  /** Hears what is refused of a batch that is not refused as a whole, in tokens. */
  onRefused: (tokens: number) => void;
};

const LIMIT: BodyLimit = { maxBytes: LIMITS.batchBytes, fault: 'BATCH_TOO_LARGE' };

/** Whether the body is NDJSON. */
export const isLines = (request: IncomingMessage): boolean => LINES.test(request.headers['content-type'] ?? '');

const LINES = /^\s*application\/(x-)?ndjson\b/i;

/** Of a body that is there already, as much is handled at once as sockets give. */
const PART_BYTES = 64 * 1024;

/**
 * The entries of a batch in order, in groups, and in slices: no body may hold up anybody else. An array is read to its end
 * before any entry is given out, lines are read as they are asked for.
 * @param body where it has been read before: then lines, too, are read to their end first
 * @throws Fault that refuses the batch; of lines, earlier ones may have been given out before. HungUp
 */
export async function* readBatch(
  request: IncomingMessage,
  options: BatchOptions,
  body?: Buffer,
): AsyncGenerator<BatchItem[]> {
  const { context, onPart } = options;
  const areLines = isLines(request);
  if (areLines && !body) {
    yield* readLines(readParts(request, context, { ...LIMIT, onPart }), options);
    return;
  }
  const whole = body ?? (await readWhole(request, context, onPart));
  const groups: BatchItem[][] = [];
  for await (const group of areLines ? readLines(toParts(whole), options) : readArray(whole, options))
    groups.push(group);
  yield* groups;
}

/** The body of a batch. @throws Fault where there is too much of it, or HungUp */
export function readWhole(request: IncomingMessage, context: RequestContext, onPart: OnPart): Promise<Buffer> {
  return new Promise((resolve, reject) => readBody(request, context, resolve, reject, { ...LIMIT, onPart }));
}

function* toParts(body: Buffer): Generator<Buffer> {
  for (let start = 0; start < body.length; start += PART_BYTES) yield body.subarray(start, start + PART_BYTES);
}

async function* readLines(
  parts: AsyncIterable<Buffer> | Iterable<Buffer>,
  { groupSize, nextSlice, onRefused }: BatchOptions,
): AsyncGenerator<BatchItem[]> {
  const splitter = new LineSplitter(LIMITS.entryBytes);
  const groups = new Groups(groupSize, onRefused);
  for await (const part of withEnd(parts)) {
    const lines = part ? splitter.split(part) : splitter.end();
    for (const { bytes, size } of lines) {
      const slice = nextSlice();
      if (slice) await slice;
      groups.count(1);
      const full = groups.add(() => parseLine(bytes), size);
      if (full) yield full;
    }
    const slice = nextSlice();
    if (slice) await slice;
  }
  onRefused(Math.floor(splitter.blankBytes / 1024));
  yield* groups.end();
}

async function* withEnd(parts: AsyncIterable<Buffer> | Iterable<Buffer>): AsyncGenerator<Buffer | undefined> {
  yield* parts;
  yield undefined;
}

function parseLine(line: Buffer | null): unknown {
  if (line === null) throw new Fault('BODY_TOO_LARGE');
  return parseJson(line);
}

async function* readArray(
  body: Buffer,
  { groupSize, nextSlice, onRefused }: BatchOptions,
): AsyncGenerator<BatchItem[]> {
  const groups = new Groups(groupSize, onRefused);
  for (const some of splitArray(body, LIMITS.entryBytes)) {
    const slice = nextSlice();
    if (slice) await slice;
    if (!some) continue;
    groups.count(some.sizes.length); // before any is parsed
    const { bytes, sizes } = some;
    const values = bytes && parseValues({ bytes, sizes });
    for (const [i, size] of sizes.entries()) {
      const slice = nextSlice();
      if (slice) await slice;
      const full = groups.add(() => (values ? values[i] : parseLine(null)), size);
      if (full) yield full;
    }
  }
  yield* groups.end();
}

/** Entries on their way into groups, each of which fits into a chunk. */
class Groups {
  readonly #size: number;
  readonly #onRefused: BatchOptions['onRefused'];
  #count = 0;
  #group: BatchItem[] = [];
  #bytes = 0;

  constructor(size: number, onRefused: BatchOptions['onRefused']) {
    this.#size = size;
    this.#onRefused = onRefused;
  }

  /** That so many more come. @throws Fault BATCH_TOO_LONG */
  count(entries: number): void {
    this.#count += entries;
    if (this.#count > LIMITS.batchEntries) throw new Fault('BATCH_TOO_LONG');
  }

  /** @returns the group that is full with it */
  add(parse: () => unknown, bytes: number): BatchItem[] | undefined {
    try {
      this.#group.push(parseEntry(parse()));
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      this.#onRefused(toTokens(bytes));
      this.#group.push(error);
    }
    this.#bytes += bytes;
    if (this.#group.length < this.#size && this.#bytes + LIMITS.entryBytes <= MAX_CHUNK_BYTES) return undefined;
    this.#bytes = 0;
    return this.#group.splice(0);
  }

  /** @returns the last one, if any @throws Fault BATCH_EMPTY */
  end(): BatchItem[][] {
    if (this.#count === 0) throw new Fault('BATCH_EMPTY');
    return this.#group.length > 0 ? [this.#group] : [];
  }
}
