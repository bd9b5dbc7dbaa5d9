import type { IncomingMessage } from 'node:http';
import { type Entry, Fault, LIMITS, LineSplitter, parseEntry, parseJson, parseValues, splitArray } from '@opm/contract';
import { toTokens } from '../guards/token-reservation.js';
import { dropRest, refusalOf } from '../http/fast-express.js';
import {
  type BodyLimit,
  ClientDisconnected,
  findCoding,
  type Inflate,
  type OnPart,
  readBody,
} from '../http/read-body.js';
import type { RequestContext } from '../http/request-context.js';
import { MAX_CHUNK_BYTES, toBytes } from '../ingest/call.js';

/** An entry of a batch, or the fault that the single call would have returned. */
export type BatchItem = Entry | Fault;

type BatchOptions = {
  context: RequestContext;
  onPart: OnPart;
  inflate: Inflate;
  /** Maximum entries in one group. */
  groupSize: number;
  /** Called before each piece of work. Resolves when there is time for it; undefined if there is time now. */
  nextSlice: () => Promise<void> | undefined;
  /** Called with the tokens of refused entries. The caller ignores them if it refuses the whole batch. */
  onRefused: (tokens: number) => void;
};

const LIMIT: BodyLimit = { maxBytes: LIMITS.batchBytes, fault: 'BATCH_TOO_LARGE' };

/** Whether the body is NDJSON. */
const isLines = (request: IncomingMessage): boolean => LINES.test(request.headers['content-type'] ?? '');

const LINES = /^\s*application\/(x-)?ndjson\b/i;

/** A body that is already in memory is processed in parts of the size that sockets deliver. */
const PART_BYTES = 64 * 1024;

/**
 * Yields the entries of a batch in order, in groups. It works in time slices, so that no body delays other requests. A
 * JSON array and compressed lines are parsed completely before the first group; other lines are read on demand.
 * @param body the body, if it has already been read. Then NDJSON, too, is parsed completely before the first group
 * @throws Fault that refuses the batch, or ClientDisconnected; with NDJSON, groups may have been yielded before
 */
export async function* readBatch(
  request: IncomingMessage,
  options: BatchOptions,
  body?: Buffer,
): AsyncGenerator<BatchItem[]> {
  const { context, onPart } = options;
  const areLines = isLines(request);
  if (areLines && !body && !findCoding(request)) {
    yield* readLines(readParts(request, context, { ...LIMIT, onPart }), options);
    return;
  }
  const whole = body ?? (await readWhole(request, options));
  const groups: BatchItem[][] = [];
  for await (const group of areLines ? readLines(toParts(whole), options) : readArray(whole, options))
    groups.push(group);
  yield* groups;
}

/**
 * Reads a JSON array of up to 1,000 elements. Works in time slices, as `readBatch` does.
 * @param parse gets an element and its place
 * @throws Fault that refuses the body, one of `parse`, or ClientDisconnected
 */
export async function readElements<Element>(
  request: IncomingMessage,
  options: Pick<BatchOptions, 'context' | 'onPart' | 'inflate' | 'nextSlice'>,
  parse: (element: unknown, place: number) => Element,
): Promise<Element[]> {
  const elements: Element[] = [];
  for await (const { values } of readValues(await readWhole(request, options), options)) {
    if (!values) throw new Fault('BODY_INVALID', { message: `body/${elements.length} is too large` });
    for (const value of values) elements.push(parse(value, elements.length));
  }
  return elements;
}

/**
 * Yields the values of a JSON array in pieces, with the size of each value in bytes; null for a single value that is
 * too long. Counts the values before it parses them, so that a batch with too many is refused early.
 * @throws Fault BATCH_TOO_LONG, BATCH_EMPTY, or one of `splitArray` and `parseValues`
 */
async function* readValues(body: Buffer, { nextSlice }: Pick<BatchOptions, 'nextSlice'>) {
  let count = 0;
  for (const piece of splitArray(body, LIMITS.entryBytes)) {
    const slice = nextSlice();
    if (slice) await slice;
    if (!piece) continue;
    const { bytes, sizes } = piece;
    count += sizes.length;
    if (count > LIMITS.batchEntries) throw new Fault('BATCH_TOO_LONG');
    yield { values: bytes && parseValues({ bytes, sizes }), sizes };
  }
  if (count === 0) throw new Fault('BATCH_EMPTY');
}

/** Reads and inflates the whole body of a batch. @throws Fault that refuses it, or ClientDisconnected */
export function readWhole(
  request: IncomingMessage,
  { context, onPart, inflate }: Pick<BatchOptions, 'context' | 'onPart' | 'inflate'>,
): Promise<Buffer> {
  const limit = { ...LIMIT, onPart };
  return new Promise((resolve, reject) => readBody(request, context, resolve, reject, { limit, inflate }));
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

async function* readArray(body: Buffer, options: BatchOptions): AsyncGenerator<BatchItem[]> {
  const groups = new Groups(options.groupSize, options.onRefused);
  for await (const { values, sizes } of readValues(body, options)) {
    let place = 0; // `entries()` is slower, and this runs for every entry
    for (const size of sizes) {
      const slice = options.nextSlice();
      if (slice) await slice;
      const value = values?.[place++];
      const full = groups.add(() => (values ? value : parseLine(null)), size);
      if (full) yield full;
    }
  }
  yield* groups.end();
}

/** Collects entries into groups, each of which fits into one chunk. */
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

  /** Parses and adds an entry. @returns the group if it is full now @throws Fault BATCH_TOO_LONG */
  add(parse: () => unknown, bytes: number): BatchItem[] | undefined {
    if (++this.#count > LIMITS.batchEntries) throw new Fault('BATCH_TOO_LONG');
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

  /** @returns the last group, if any @throws Fault BATCH_EMPTY */
  end(): BatchItem[][] {
    if (this.#count === 0) throw new Fault('BATCH_EMPTY');
    return this.#group.length > 0 ? [this.#group] : [];
  }
}

/** Divides a batch into groups that fit into a chunk. The same entries are divided alike, however they are spelled. */
export function regroup(items: BatchItem[], groupSize: number): BatchItem[][] {
  const groups: BatchItem[][] = [];
  let bytes = Number.POSITIVE_INFINITY;
  for (const item of items) {
    const own = item instanceof Fault ? 0 : toBytes(item);
    const group = groups.at(-1);
    if (group && group.length < groupSize && bytes + own <= MAX_CHUNK_BYTES) {
      group.push(item);
      bytes += own;
    } else {
      groups.push([item]);
      bytes = own;
    }
  }
  return groups;
}

/**
 * Yields the parts of a body as they arrive. It reads no further until the consumer asks for the next part.
 * @throws Fault of the limit, CHUNKS_TOO_SMALL, an error of `onPart`, or ClientDisconnected
 */
async function* readParts(
  request: IncomingMessage,
  context: RequestContext,
  { maxBytes, fault, onPart }: BodyLimit,
): AsyncGenerator<Buffer> {
  if (Number(request.headers['content-length']) > maxBytes) throw new Fault(fault);
  try {
    // Destroying the request would destroy the connection before the answer.
    for await (const part of request.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      context.bodyBytes += part.length;
      if (context.bodyBytes > maxBytes) throw new Fault(fault);
      onPart?.(part.length);
      yield part;
    }
    const refusal = refusalOf(request);
    if (refusal) throw refusal;
  } catch (error) {
    throw error instanceof Fault
      ? error
      : new ClientDisconnected('client disconnected before the body was complete', { cause: error });
  } finally {
    dropRest(request);
  }
}
