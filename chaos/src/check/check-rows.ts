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
