import { type CustomerState, FIELDS, type Field } from '@opm/core';
import { toArrayLiteral } from './array-literal.js';
import { Prisma, type PrismaClient } from './generated/client.js';
import { StoreError } from './store-error.js';

export type CustomerRow = { projectId: number; customerId: string; state: CustomerState };

const COLUMN: Record<Field, string> = {
  email: 'email',
  phone: 'phone',
  firstName: 'first_name',
  lastName: 'last_name',
  ip: 'ip',
};

/**
 * `mergeCustomer` as one statement over many rows: per field the higher version, the later erasure, nothing that the
 * erasure covers. Arrays keep it at 15 parameters at most and two plans for any number of rows; a row that the entries
 * would not change is not written.
 */
export async function upsertCustomers(prisma: PrismaClient, rows: CustomerRow[]): Promise<void> {
  if (rows.length > 0) await prisma.$executeRaw(toUpsert(sort(rows), { areOneEntryEach: rows.every(isOneEntry) }));
}

export type TriedRows = {
  failed: { row: CustomerRow; error: StoreError }[];
  /** Those behind one whose row another session holds, or for which there was no time. */
  untried: CustomerRow[];
};

/** The same for each row by itself, in one round trip: one that fails leaves the others as they are. */
export async function upsertEachCustomer(prisma: PrismaClient, rows: CustomerRow[]): Promise<TriedRows> {
  const sorted = sort(rows);
  const calls = sorted.map((row) => toUpsert([row], { areOneEntryEach: false }));
  const results = await prisma.$queryRaw<{ place: number; sqlState: string | null; message: string }[]>`
    SELECT place, sql_state AS "sqlState", message
    FROM try_each(${calls[0]?.text}, ${toArrayLiteral(calls, ({ values }) => JSON.stringify(values))}::text[])`;
  const failed: TriedRows['failed'] = [];
  let tried = sorted.length;
  for (const { place, sqlState, message } of results) {
    const error = sqlState === null ? undefined : StoreError.of(sqlState, message);
    if (error) failed.push({ row: sorted[place - 1] as CustomerRow, error });
    if (!error) tried = place - 1;
    else if (error.kind === 'blocked') tried = place;
  }
  return { failed, untried: sorted.slice(tried) };
}

/** One order for all workers, so that two statements cannot wait for each other's rows. */
const sort = (rows: CustomerRow[]) =>
  rows.toSorted((a, b) => a.projectId - b.projectId || (a.customerId < b.customerId ? -1 : 1));

function toUpsert(rows: CustomerRow[], { areOneEntryEach }: { areOneEntryEach: boolean }): Prisma.Sql {
  const column = (pick: (row: CustomerRow) => string | number | undefined) => toArrayLiteral(rows, pick);
  const versions = areOneEntryEach ? ONE_VERSION : ownVersions(column);
  return Prisma.sql`
    INSERT INTO customers AS stored (
      project_id, customer_id, ${NAMES}, ${VERSIONS}, erased_version, created_at, updated_at
    )
    SELECT
      project_id, customer_id, ${NAMES}, ${versions.selected}, ${toTime('last_version')}
    FROM unnest(
      ${column((row) => row.projectId)}::int[],
      ${column((row) => row.customerId)}::text[],
      ${Prisma.join(FIELDS.map((field) => Prisma.sql`${column((row) => row.state.fields[field])}::text[]`))},
      ${column((row) => row.state.lastVersion)}::bigint[]${versions.arrays}
    ) AS given (project_id, customer_id, ${NAMES}, last_version${versions.names})
    ON CONFLICT (project_id, customer_id) DO UPDATE SET
      ${MERGED_FIELDS},
      erased_version = greatest(stored.erased_version, excluded.erased_version),
      created_at = greatest(least(stored.created_at, excluded.created_at), ${ERASED_AT}),
      updated_at = greatest(stored.updated_at, excluded.updated_at)
    WHERE ${CHANGES}`;
}

export const isUpsert = (sql: string): boolean => sql.trimStart().startsWith('INSERT INTO customers AS stored');

/** Whether the row is what a single entry says, which most are: then all its fields have the same version. */
function isOneEntry({ state: { erasedVersion, firstVersion, lastVersion } }: CustomerRow): boolean {
  return erasedVersion === 0 && firstVersion === lastVersion;
}

function ownVersions(column: (pick: (row: CustomerRow) => number) => string) {
  const versions = [
    ...FIELDS.map((field) => column(({ state }) => state.versions[field])),
    column(({ state }) => state.erasedVersion),
    column(({ state }) => state.firstVersion),
  ];
  return {
    ...OWN_VERSIONS,
    arrays: Prisma.sql`, ${Prisma.join(versions.map((array) => Prisma.sql`${array}::bigint[]`))}`,
  };
}

/** SQL for the time that a version stands for. @param version an SQL expression, never a value */
export function toTime(version: string): Prisma.Sql {
  return Prisma.raw(`('epoch'::timestamptz + ${version} * interval '1 microsecond')`);
}

const list = (pieces: string[], separator = ', ') => Prisma.raw(pieces.join(separator));
const columns = FIELDS.map((field) => COLUMN[field]);

const NAMES = list(columns);
const VERSIONS = list(columns.map((name) => `${name}_version`));

const ONE_VERSION = {
  arrays: Prisma.empty,
  names: Prisma.empty,
  selected: Prisma.sql`
    ${list(columns.map((name) => `CASE WHEN ${name} IS NULL THEN 0 ELSE last_version END`))},
    0, ${toTime('last_version')}`,
};
const OWN_VERSIONS = {
  names: Prisma.sql`, ${VERSIONS}, erased_version, first_version`,
  selected: Prisma.sql`${VERSIONS}, erased_version, ${toTime('first_version')}`,
};

const erased = 'greatest(stored.erased_version, excluded.erased_version)';
const ERASED_AT = toTime(erased);

const MERGED_FIELDS = list(
  columns.map((name) => {
    const version = `greatest(stored.${name}_version, excluded.${name}_version)`;
    const value = `CASE WHEN excluded.${name}_version > stored.${name}_version THEN excluded.${name} ELSE stored.${name} END`;
    return `
      ${name} = CASE WHEN ${version} > ${erased} THEN ${value} END,
      ${name}_version = CASE WHEN ${version} > ${erased} THEN ${version} ELSE 0 END`;
  }),
);

const CHANGES = list(
  [
    ...[...columns, 'erased'].map((name) => `excluded.${name}_version > stored.${name}_version`),
    'excluded.created_at < stored.created_at',
    'excluded.updated_at > stored.updated_at',
  ],
  ' OR ',
);
