import { type CustomerAnswer, toCustomerAnswer } from '@opm/contract';
import type { Customers } from '@opm/store';
import { stringify } from 'csv-stringify/sync';
import { toJson } from '../print.js';
import type { Format } from './format.js';

const PAGE = 5_000;

export type ExportOptions = {
  customers: Pick<Customers, 'page'>;
  projectId: number;
  format: Format;
  /** Cells of CSV that a spreadsheet would run get an apostrophe in front. */
  escapeFormulas: boolean;
  onProgress: (exported: number) => void;
};

/**
 * A project's customers as text that can be imported again, page by page in the order of their ids. It is no snapshot: each
 * customer is as stored when their page is read.
 */
export async function* exportCustomers(options: ExportOptions): AsyncGenerator<string> {
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
