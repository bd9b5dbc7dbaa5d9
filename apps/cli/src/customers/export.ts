import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type CustomerAnswer, toCustomerAnswer } from '@opm/contract';
import type { Customers } from '@opm/store';
import { stringify } from 'csv-stringify/sync';
import type { Format } from '../parse.js';
import { createBar, escapeLines, toJson } from '../print.js';
import { toUserError } from '../user-error.js';

const PAGE = 5_000;

type ExportOptions = {
  customers: Pick<Customers, 'page'>;
  projectId: number;
  format: Format;
  /** Puts an apostrophe before CSV cells that a spreadsheet would run as a formula. */
  escapeFormulas: boolean;
  onProgress: (exported: number) => void;
};

/**
 * Yields a project's customers as text that `import` reads, page by page and ordered by id. The export is no snapshot:
 * it has each customer as stored when its page is read.
 */
async function* exportCustomers(options: ExportOptions): AsyncGenerator<string> {
  const { customers, projectId, format, escapeFormulas, onProgress } = options;
  let afterId = '';
  for (let isFirst = true; ; isFirst = false) {
    const page = await customers.page(projectId, { afterId, limit: PAGE });
    const rows = page.map((stored) => toCustomerAnswer(stored.customerId, stored, false).customer);
    yield TO_TEXT[format](rows, { isFirst, escapeFormulas });
    onProgress(page.length);
    if (page.length < PAGE) return;
    afterId = page.at(-1)?.customerId ?? afterId;
  }
}

type Row = CustomerAnswer['customer'];

type Style = { isFirst: boolean; escapeFormulas: boolean };

const TO_TEXT: Record<Format, (rows: Row[], style: Style) => string> = {
  ndjson: (rows) => rows.map((row) => `${toJson(row)}\n`).join(''),
  csv: (rows, { isFirst, escapeFormulas }) =>
    stringify(rows, {
      header: isFirst,
      columns: CSV_COLUMNS,
      cast: { date: (date) => date.toISOString() },
      escape_formulas: escapeFormulas,
    }),
};

const CSV_COLUMNS = Object.keys(toCustomerAnswer('', undefined, false).customer);

/**
 * Writes to stdout with backpressure. On a terminal, escapes control characters. If stdout is not a terminal, shows the
 * count on stderr.
 */
export async function writeExport(options: Omit<ExportOptions, 'onProgress'>): Promise<void> {
  const bar = createBar('export');
  const { isTTY } = process.stdout;
  if (!isTTY) bar.start(0);
  const pages = exportCustomers({ ...options, onProgress: (exported) => bar.increment(exported) });
  const text = isTTY ? Readable.from(pages).map(escapeLines) : Readable.from(pages);
  try {
    await pipeline(text, process.stdout, { end: false });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EPIPE') return; // the reader, such as `head`, closed the pipe
    throw toUserError(error, 'the export cannot be written');
  } finally {
    bar.stop();
  }
}
