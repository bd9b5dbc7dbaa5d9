import { createWriteStream } from 'node:fs';
import { appendFile, open } from 'node:fs/promises';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { Rows } from './check/check-rows.js';
import type { SentEntry } from './load/ledger.js';

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
