import { createWriteStream } from 'node:fs';
import { appendFile, open } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { FIELDS, type Field } from '@opm/core';
import { toColumn } from '@opm/store';
import { query } from '@opm/testkit';
import { type SentEntry, toCustomer } from '../load/ledger.js';
import { checkCustomer, type Finding, type Row } from './check-customer.js';

/** Rows by customer id of the ledger. */
export type Rows = Map<string, Row>;

/** Compares all rows with everything that was sent. */
export function checkRows(customers: Map<string, SentEntry[]>, rows: Rows): Finding[] {
  const findings: Finding[] = [];
  for (const [customerId, sent] of customers) {
    findings.push(...checkCustomer(customerId, sent, rows.get(customerId) ?? {}));
  }
  for (const customerId of rows.keys()) {
    if (!customers.has(customerId))
      findings.push({ rule: 'wrong', at: performance.now(), customerId, what: 'no client sent this customer' });
  }
  return findings;
}

const PAGE = 20_000;

/** @param projectIds those of the partners, in order */
export async function readRows(databaseUrl: string, projectIds: number[]): Promise<Rows> {
  const rows: Rows = new Map();
  for (const [partner, projectId] of projectIds.entries()) await addRows(rows, partner, databaseUrl, projectId);
  return rows;
}

async function addRows(rows: Rows, partner: number, databaseUrl: string, projectId: number): Promise<void> {
  let after = '';
  for (;;) {
    const page = await query<{ customerId: string } & Record<Field, string | null>>(databaseUrl, READ, [
      projectId,
      after,
      PAGE,
    ]);
    for (const { customerId, ...fields } of page) {
      const given = Object.entries(fields).filter(([, value]) => value !== null);
      rows.set(toCustomer(partner, customerId), Object.fromEntries(given) as Row);
      after = customerId;
    }
    if (page.length < PAGE) return;
  }
}

const COLUMNS = FIELDS.map((field) => `${toColumn(field)} AS "${field}"`).join(', ');
const READ = `
  SELECT customer_id AS "customerId", ${COLUMNS}
  FROM customers WHERE project_id = $1 AND customer_id COLLATE "C" > $2
  ORDER BY customer_id COLLATE "C" LIMIT $3`;

/** Everything that the check of the rows needs. */
export type Evidence = { customers: Map<string, SentEntry[]>; rows: Rows };

/** Each kind is a file with one JSON value per line: sent entries, rows, rounds of faults, findings. */
type Kind = 'ledger' | 'rows' | 'faults' | 'findings';

const fileOf = (directory: string, kind: Kind) => join(directory, `${kind}.ndjson`);

export async function writeEvidence(directory: string, kind: Kind, items: Iterable<unknown>): Promise<void> {
  const toLines = function* () {
    for (const item of items) yield `${JSON.stringify(item)}\n`;
  };
  await pipeline(Readable.from(toLines()), createWriteStream(fileOf(directory, kind)));
}

export async function addEvidence(directory: string, kind: Kind, item: unknown): Promise<void> {
  await appendFile(fileOf(directory, kind), `${JSON.stringify(item)}\n`);
}

/** @throws Error if the directory has no ledger or no rows */
export async function readEvidence(directory: string): Promise<Evidence> {
  const customers = new Map<string, SentEntry[]>();
  for await (const line of (await open(fileOf(directory, 'ledger'))).readLines()) {
    const sent: SentEntry = JSON.parse(line);
    sent.answeredAt ??= Number.POSITIVE_INFINITY; // JSON has no Infinity.
    const known = customers.get(sent.customerId);
    if (known) known.push(sent);
    else customers.set(sent.customerId, [sent]);
  }
  if (customers.size === 0) throw new Error(`the ledger in ${directory} is empty`);
  const rows: Rows = new Map();
  for await (const line of (await open(fileOf(directory, 'rows'))).readLines()) {
    const [customerId, row] = JSON.parse(line);
    rows.set(customerId, row);
  }
  return { customers, rows };
}
