import { type CustomerAnswer, toCustomerAnswer } from '@opm/contract';
import type { Customers } from '@opm/store';
import { stringify } from 'csv-stringify/sync';
import type { Format } from './format.js';

const PAGE = 5_000;

export type ExportOptions = {
  customers: Pick<Customers, 'page'>;
  projectId: number;
  format: Format;
  onProgress: (exported: number) => void;
};

/**
 * A project's customers as text that can be imported again, page by page in the order of their ids. It is no snapshot: each
 * customer is as stored when their page is read.
 */
export async function* exportCustomers(options: ExportOptions): AsyncGenerator<string> {
  const { customers, projectId, format, onProgress } = options;
  let afterId = '';
  for (let isFirst = true; ; isFirst = false) {
    const page = await customers.page(projectId, { afterId, limit: PAGE });
    const rows = page.map((stored) => toCustomerAnswer(stored.customerId, stored, false).customer);
    yield TO_TEXT[format](rows, isFirst);
    onProgress(page.length);
    if (page.length < PAGE) return;
    afterId = page.at(-1)?.customerId ?? afterId;
  }
}

type Row = CustomerAnswer['customer'];

const TO_TEXT: Record<Format, (rows: Row[], isFirst: boolean) => string> = {
  ndjson: (rows) => rows.map((row) => `${JSON.stringify(row)}\n`).join(''),
  csv: (rows, isFirst) =>
    stringify(rows, { header: isFirst, columns: CSV_COLUMNS, cast: { date: (date) => date.toISOString() } }),
};

const CSV_COLUMNS = Object.keys(toCustomerAnswer('', undefined, false).customer);
