import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createBar } from '../create-bar.js';
import { escapeLines } from '../print.js';
import { toUserError } from '../user-error.js';
import { type ExportOptions, exportCustomers } from './export.js';

/** Writes to stdout no faster than it is read, and to a terminal nothing that it would obey. The count is shown on stderr, where stdout is no terminal. */
export async function writeExport(options: Omit<ExportOptions, 'onProgress'>): Promise<void> {
  const bar = createBar('export');
  const { isTTY } = process.stdout;
  if (!isTTY) bar.start(0);
  const pages = exportCustomers({ ...options, onProgress: (exported) => bar.increment(exported) });
  const text = isTTY ? Readable.from(pages).map(escapeLines) : Readable.from(pages);
  try {
    await pipeline(text, process.stdout, { end: false });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EPIPE') return; // the reader has seen enough
    throw toUserError(error, 'the export cannot be written');
  } finally {
    bar.stop();
  }
}
