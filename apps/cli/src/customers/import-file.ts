import { createReadStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { extname } from 'node:path';
import type { Version } from '@opm/core';
import { createBar } from '../create-bar.js';
import type { Moment } from '../parse-time.js';
import { escapeControls } from '../print.js';
import { toUserError, UserError } from '../user-error.js';
import { withInterrupt } from '../with-interrupt.js';
import { type QueueFlags, withQueue } from '../with-queue.js';
import { findProject, withStore } from '../with-store.js';
import { FORMATS, type Format } from './format.js';
import { type Imported, importCustomers } from './import.js';
import { readCsv } from './read-csv.js';
import { readNdjson } from './read-ndjson.js';
import { createRejects } from './rejects.js';

export type ImportFileOptions = QueueFlags & {
  project: string;
  format?: Format;
  delimiter: string;
  asOf?: Moment;
  rejected?: string;
};

export type ImportedFile = Imported & { rejectedFile: string; isStopped: boolean };

/** Imports a file with a bar on stderr. @throws UserError */
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
    console.error(`opm: columns that are ignored: ${escapeControls(columns.join(', '))}`);
  const counts: Imported = { imported: 0, rejected: 0 };
  const shown = { ...counts, waiting: '' };
  let isWhole = false;
  try {
    return await withInterrupt((signal) =>
      withQueue(env, options, async (queue, shards) => {
        // The last line is as new as the file, so that none is newer than what partners send meanwhile.
        const before = Math.max(0, toVersion(asOf, await queue.readClock()) - (await countLines(file)));
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
          onWaiting(tooMuch) {
            shown.waiting = tooMuch ? `, waiting: ${tooMuch}` : '';
            bar.update(stream.bytesRead, shown);
          },
          signal,
        });
        isWhole = !signal.aborted;
        return { ...counts, rejectedFile, isStopped: !isWhole };
      }),
    );
  } catch (cause) {
    const error = toUserError(cause, 'it cannot be read');
    if (!(error instanceof UserError)) throw error;
    const hint = counts.imported > 0 ? `; ${counts.imported} lines had been queued: import it again to go on` : '';
    throw new UserError(`${file}: ${error.message}${hint}`);
  } finally {
    bar.stop();
    rejects.close({ isWhole });
  }
}

/** A clock that is a little ahead of the store's makes no file one of the future. */
const MAX_AHEAD_MS = 60_000;
const LINE_FEED = 10;
const CARRIAGE_RETURN = 13;

/** @throws UserError if the moment is in the store's future, or before 1970 */
function toVersion(asOf: Moment, now: Date): Version {
  const moment = asOf(now);
  const aheadMs = moment.getTime() - now.getTime();
  const when = moment.getTime() < 0 ? 'before 1970' : aheadMs > MAX_AHEAD_MS ? 'the future' : undefined;
  if (!when) return Math.min(moment.getTime(), now.getTime()) * 1_000;
  const store = aheadMs > 0 ? `, by the queue's clock, ${now.toISOString()}` : '';
  throw new UserError(`it is of ${when}, ${moment.toISOString()}${store}: say with --as-of when it was true`);
}

/** At least as many lines as the file has, whatever they end with. */
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
  if (!format) throw new UserError(`${file} ends neither with .ndjson nor with .csv: say --format`);
  return format;
}
