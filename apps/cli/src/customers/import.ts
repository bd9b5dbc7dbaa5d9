import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { extname } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { Fault, parseEntry } from '@opm/contract';
import type { CustomerEntry, Version } from '@opm/core';
import { type EntryQueue, shardOf } from '@opm/queue';
import pRetry from 'p-retry';
import { FORMATS, type Format, type Moment } from '../parse.js';
import { createBar, escapeControls } from '../print.js';
import { toUserError, UserError, withInterrupt } from '../user-error.js';
import { QUEUE_RETRIES, type QueueFlags, withQueue } from '../with-queue.js';
import { findProject, recordChange, withStore } from '../with-store.js';
import { createRejects, type Line, readCsv, readNdjson } from './lines.js';

type ImportOptions = {
  lines: AsyncIterable<Line[]>;
  projectId: number;
  queue: Pick<EntryQueue, 'requeue' | 'load'>;
  shards: number;
  /** The version of a line is this plus its number. Later lines win; importing the same file again changes nothing. */
  before: Version;
  onRejected: (line: Line, reason: string) => void;
  onProgress: (counts: Imported) => void;
  /** Gets the reason while the queue is too full, and undefined once there is room. */
  onWaiting: (reason: string | undefined) => void;
  /** Ends the import after the current chunk. */
  signal: AbortSignal;
};

type Imported = { imported: number; rejected: number };

/** Half of what a statement of the worker takes by default, so that an import hardly delays other jobs. */
const CHUNK_ENTRIES = 500;
/** The import waits above these limits, so that partners go first and keep the queue's memory. */
const MAX_WAITING_ENTRIES = 50_000;
const MAX_MEMORY_USE = 0.7;
const POLL_MS = 100;

/** Queues the lines of a file, in chunks per shard. @throws Fault QUEUE_UNAVAILABLE */
async function importCustomers(options: ImportOptions): Promise<Imported> {
  const { lines, projectId, queue, shards, before, onRejected, onProgress, onWaiting, signal } = options;
  const chunks = Array.from({ length: shards }, (): CustomerEntry[] => []);
  const counts: Imported = { imported: 0, rejected: 0 };

  for await (const some of lines) {
    for (const line of some) {
      if (signal.aborted) return counts;
      const entry = toEntry(line);
      if (!entry) continue;
      const shard = shardOf(projectId, entry.customerId, shards);
      const chunk = chunks[shard] as CustomerEntry[];
      chunk.push(entry);
      if (chunk.length === CHUNK_ENTRIES) await send(shard);
    }
    onProgress(counts);
  }
  for (const shard of chunks.keys()) await send(shard);
  onProgress(counts);
  return counts;

  function toEntry(line: Line): CustomerEntry | undefined {
    try {
      return { ...parseEntry(line.toBody()), version: before + line.number };
    } catch (error) {
      if (!(error instanceof Fault)) throw error;
      counts.rejected++;
      onRejected(line, error.message);
    }
  }

  async function send(shard: number): Promise<void> {
    const entries = chunks[shard] as CustomerEntry[];
    if (entries.length === 0) return;
    const isSent = await pRetry(async () => {
      if (!(await waitForRoom())) return false;
      await queue.requeue(shard, { entries: entries.map((entry) => ({ projectId, ...entry })) });
      return true;
    }, QUEUE_RETRIES);
    if (!isSent) return;
    chunks[shard] = [];
    counts.imported += entries.length;
    onProgress(counts);
  }

  /** @returns false if the signal aborts first */
  async function waitForRoom(): Promise<boolean> {
    while (!signal.aborted) {
      const { entries, memory } = await queue.load();
      const isFull = entries >= MAX_WAITING_ENTRIES;
      const reason = isFull
        ? `${entries} queued`
        : memory >= MAX_MEMORY_USE
          ? `memory ${Math.round(memory * 100)} %`
          : undefined;
      onWaiting(reason);
      if (!reason) return true;
      await delay(POLL_MS);
    }
    return false;
  }
}

export type ImportFileOptions = QueueFlags & {
  project: string;
  format?: Format;
  delimiter: string;
  asOf?: Moment;
  rejected?: string;
};

type ImportedFile = Imported & { rejectedFile: string; isStopped: boolean };

/** Imports a file, with a progress bar on stderr. @throws UserError */
export async function importFile(
  env: NodeJS.ProcessEnv,
  file: string,
  options: ImportFileOptions,
): Promise<ImportedFile> {
  const { size, mtime } = await statFile(file);
  const { asOf = () => mtime, rejected: rejectedFile = `${file}.rejected.ndjson`, delimiter } = options;
  const format = options.format ?? toFormat(file);
  const { projectId } = await withStore(env, (store) => findProject(store, options.project));
  const rejects = createRejects(rejectedFile, file);
  const bar = createBar('import');
  const onIgnored = (columns: string[]) =>
    console.error(`opm: ignoring unknown columns: ${escapeControls(columns.join(', '))}`);
  const counts: Imported = { imported: 0, rejected: 0 };
  const shown = { ...counts, waiting: '' };
  let isWhole = false;
  try {
    return await withInterrupt((signal) =>
      withQueue(env, options, async (queue, shards) => {
        // The last line gets the file's time, so no line is newer than an entry that a partner sends during the import.
        const before = Math.max(0, toVersion(asOf, await queue.readClock()) - (await countLines(file)));
        const audited = { action: 'customers import', target: options.project, details: { bytes: size } };
        await withStore(env, async (store) => {
          await recordChange(store, audited);
          bar.start(size, shown);
          const stream = createReadStream(file);
          await importCustomers({
            lines: format === 'csv' ? readCsv(stream, { delimiter, onIgnored }) : readNdjson(stream),
            projectId,
            queue,
            shards,
            before,
            onRejected: rejects.add,
            onProgress(progress) {
              Object.assign(counts, progress);
              bar.update(stream.bytesRead, Object.assign(shown, progress));
            },
            onWaiting(reason) {
              shown.waiting = reason ? `, waiting: ${reason}` : '';
              bar.update(stream.bytesRead, shown);
            },
            signal,
          });
        });
        isWhole = !signal.aborted;
        return { ...counts, rejectedFile, isStopped: !isWhole };
      }),
    );
  } catch (cause) {
    const error = toUserError(cause, 'cannot be read');
    if (!(error instanceof UserError)) throw error;
    const hint =
      counts.imported > 0 ? `; ${counts.imported} lines were queued: run the same import again to continue` : '';
    throw new UserError(`${file}: ${error.message}${hint}`, error.kind);
  } finally {
    bar.stop();
    rejects.close({ isWhole });
  }
}

/** Tolerance for a file clock that is ahead of the store's clock. */
const MAX_AHEAD_MS = 60_000;
const LINE_FEED = 10;
const CARRIAGE_RETURN = 13;

/** @throws UserError if the time is before 1970, or in the future of the store's clock */
function toVersion(asOf: Moment, now: Date): Version {
  const moment = asOf(now);
  const aheadMs = moment.getTime() - now.getTime();
  const when = moment.getTime() < 0 ? 'before 1970' : aheadMs > MAX_AHEAD_MS ? 'in the future' : undefined;
  if (!when) return Math.min(moment.getTime(), now.getTime()) * 1_000;
  const store = aheadMs > 0 ? ` of the queue's clock (${now.toISOString()})` : '';
  throw new UserError(`its time ${moment.toISOString()} is ${when}${store}: set the time of the data with --as-of`);
}

/** Counts LF and CR bytes, so a CR LF counts twice: the result is an upper bound of the file's lines. */
async function countLines(file: string): Promise<number> {
  let count = 1;
  for await (const part of createReadStream(file, { highWaterMark: 1024 * 1024 }) as AsyncIterable<Buffer>) {
    for (let i = 0; i < part.length; i++) if (part[i] === LINE_FEED || part[i] === CARRIAGE_RETURN) count++;
  }
  return count;
}

async function statFile(file: string) {
  const found = await stat(file).catch((error: NodeJS.ErrnoException) => {
    throw new UserError(`${file} cannot be read: ${error.code}`);
  });
  if (!found.isFile()) throw new UserError(`${file} is not a file`);
  return found;
}

function toFormat(file: string): Format {
  const format = FORMATS.find((name) => extname(file).toLowerCase() === `.${name}`);
  if (!format) throw new UserError(`${file} does not end in .ndjson or .csv: set --format`);
  return format;
}
