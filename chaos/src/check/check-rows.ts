import { createWriteStream } from 'node:fs';
import { appendFile, open } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { FIELDS, type Field, parseReceipt } from '@opm/core';
import { toColumn } from '@opm/store';
import { query, waitFor } from '@opm/testkit';
import pMap from 'p-map';
import { request } from 'undici';
import { parseCustomer, type SentEntry, toCustomer, toValue } from '../load/ledger.js';
import type { Stack } from '../stack/stack.js';
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

/** A receipt, the state that the API answers, and the row's versions and the dead letters in the tables. */
export type AskedReceipt = {
  sent: SentEntry;
  receipt: string;
  state: string;
  /** The versions of the row's fields, in the order of `FIELDS`, and of its erasure; 0 if there is none. */
  versions: number[];
  /** Whether a dead letter has the version of the receipt, and was not replayed. */
  isRefused: boolean;
};

const MAX_RECEIPTS = 20_000;
const RECEIPTS_AT_ONCE = 500;

/**
 * Asks an ingress what became of each receipt, or of an even sample if there are many, and compares the answers with
 * the tables. All jobs must be done.
 * @returns the number of receipts asked for
 */
export async function checkReceipts(
  { customers, rows }: Evidence,
  { postgres, partners, urls }: Pick<Stack, 'postgres' | 'partners' | 'urls'>,
): Promise<{ receipts: number; findings: Finding[] }> {
  const findings: Finding[] = [];
  const report = ({ customerId, id, sentAt }: SentEntry, what: string) =>
    findings.push({ rule: 'receipt', at: sentAt, customerId, what: `${id}: ${what}` });
  const all = [...customers.values()].flat();
  for (const sent of all) {
    const { receipts = [], repeats = 0 } = sent;
    if (receipts.length > 1 + repeats) report(sent, `its answers have ${receipts.length} receipts`);
  }
  const given = all.flatMap((sent) => (sent.receipts ?? []).map((receipt) => ({ sent, receipt })));
  const step = Math.max(1, Math.ceil(given.length / MAX_RECEIPTS));
  const sample = given.filter((_, i) => i % step === 0);

  const readState = async ({ sent, receipt }: (typeof sample)[number], i: number): Promise<string> => {
    const { partner, id } = parseCustomer(sent.customerId);
    const ask = async () => {
      const { statusCode, body } = await request(`${urls[i % urls.length]}/entry/${id}/receipts/${receipt}`, {
        headers: { 'x-api-key': partners[partner]?.apiKey ?? '' },
      });
      const text = await body.text();
      if (statusCode === 503) return undefined;
      return statusCode === 200 ? String(JSON.parse(text).state) : `a ${statusCode}`;
    };
    return waitFor(ask, { description: `an answer about ${receipt}` });
  };
  for (let first = 0; first < sample.length; first += RECEIPTS_AT_ONCE) {
    const page = sample.slice(first, first + RECEIPTS_AT_ONCE);
    const states = await pMap(page, readState, { concurrency: 16 });
    const inTables = await query<{ versions: number[]; isRefused: boolean }>(postgres.url, READ_RECEIPTS, [
      page.map(({ sent }) => partners[parseCustomer(sent.customerId).partner]?.projectId),
      page.map(({ sent }) => parseCustomer(sent.customerId).id),
      page.map(({ sent, receipt }) => parseReceipt(receipt, parseCustomer(sent.customerId).id)?.version ?? 0),
    ]);
    for (const [i, { sent, receipt }] of page.entries()) {
      const { versions = [], isRefused = false } = inTables[i] ?? {};
      const asked = { sent, receipt, state: states[i] ?? '', versions, isRefused };
      const what = judgeReceipt(asked, rows.get(sent.customerId) ?? {});
      if (what) report(sent, what);
    }
  }
  return { receipts: sample.length, findings };
}

/** What is wrong with a receipt, if anything. */
export function judgeReceipt(
  { sent, receipt, state, versions, isRefused }: AskedReceipt,
  row: Row,
): string | undefined {
  const { version, fields } = parseReceipt(receipt, parseCustomer(sent.customerId).id) ?? { version: 0, fields: [] };
  const given = FIELDS.filter((field) => sent.fields.includes(field));
  if (version === 0 || fields.join() !== given.join()) return `${receipt} is not a receipt of this entry`;
  const versionOf = (field: Field) => versions[FIELDS.indexOf(field)] ?? 0;
  const erased = versions[FIELDS.length] ?? 0;
  const isStored = erased >= version || (fields.length > 0 && fields.every((field) => versionOf(field) >= version));
  const isTrue = isStored ? state === 'stored' : isRefused && state === 'refused';
  const inTables = isStored ? 'stored' : isRefused ? 'refused' : 'neither stored nor refused';
  if (!isTrue) return `the answer for ${receipt} is ${state}, but in the tables the entry is ${inTables}`;
  // Without `repeats` only one version can have written the value.
  const other = fields.find((field) => row[field] === toValue(sent.id, field) && versionOf(field) !== version);
  if (other && !sent.repeats) return `${receipt} has version ${version}, but its ${other} has ${versionOf(other)}`;
  return undefined;
}

const VERSIONS = [...FIELDS.map(toColumn), 'erased'].map((column) => `coalesce(c.${column}_version, 0)`).join(', ');
const READ_RECEIPTS = `
  SELECT ARRAY[${VERSIONS}]::float8[] AS versions, EXISTS (
    SELECT FROM dead_letters AS letter
    WHERE letter.project_id = asked.project_id AND letter.customer_id = asked.customer_id
      AND letter.version = asked.version AND letter.resolution IS DISTINCT FROM 'replayed'
  ) AS "isRefused"
  FROM unnest($1::int[], $2::text[], $3::bigint[]) WITH ORDINALITY AS asked (project_id, customer_id, version, place)
  LEFT JOIN customers AS c ON c.project_id = asked.project_id AND c.customer_id = asked.customer_id
  ORDER BY asked.place`;

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
