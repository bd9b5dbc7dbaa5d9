import { type CustomerState, FIELDS } from '@opm/core';
import { Prisma, type PrismaClient } from './generated/client.js';
import { StoreError } from './store-error.js';

export type CustomerRow = { projectId: number; customerId: string; state: CustomerState };

/** The column of a property, as prisma/schema.prisma maps it: `first_name` for `firstName`. */
export const toColumn = (property: string) => property.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** The columns of the fields. The version of each is in a column of its own, `first_name_version`. */
export const FIELD_COLUMNS = FIELDS.map(toColumn);

/**
 * Does what `mergeCustomer` does, with one statement for all rows. It does not write rows that would not change.
 * The parameters are arrays, so any number of rows needs at most 15 parameters and two plans.
 */
export async function upsertCustomers(prisma: PrismaClient, rows: CustomerRow[]): Promise<void> {
  if (rows.length > 0) await prisma.$executeRaw(toUpsert(sort(rows), { areOneEntryEach: rows.every(isOneEntry) }));
}

export type TriedRows = {
  failed: { row: CustomerRow; error: StoreError }[];
  /** Rows after a locked row, or after the time limit of `try_each`. */
  untried: CustomerRow[];
};

/** Upserts each row by itself, in one round trip, so that a row that fails does not affect the others. */
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

/** All workers use the same order, so that two statements cannot deadlock. */
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

/** Whether the row comes from a single entry, as most do. All its fields then have the same version. */
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

/** SQL that converts a version to a timestamptz. @param version an SQL expression; it is not escaped */
export function toTime(version: string): Prisma.Sql {
  return Prisma.raw(`('epoch'::timestamptz + ${version} * interval '1 microsecond')`);
}

const list = (pieces: string[], separator = ', ') => Prisma.raw(pieces.join(separator));

const NAMES = list(FIELD_COLUMNS);
const VERSIONS = list(FIELD_COLUMNS.map((name) => `${name}_version`));

const ONE_VERSION = {
  arrays: Prisma.empty,
  names: Prisma.empty,
  selected: Prisma.sql`
    ${list(FIELD_COLUMNS.map((name) => `CASE WHEN ${name} IS NULL THEN 0 ELSE last_version END`))},
    0, ${toTime('last_version')}`,
};
const OWN_VERSIONS = {
  names: Prisma.sql`, ${VERSIONS}, erased_version, first_version`,
  selected: Prisma.sql`${VERSIONS}, erased_version, ${toTime('first_version')}`,
};

const erased = 'greatest(stored.erased_version, excluded.erased_version)';
const ERASED_AT = toTime(erased);

const MERGED_FIELDS = list(
  FIELD_COLUMNS.map((name) => {
    const version = `greatest(stored.${name}_version, excluded.${name}_version)`;
    const value = `CASE WHEN excluded.${name}_version > stored.${name}_version THEN excluded.${name} ELSE stored.${name} END`;
    return `
      ${name} = CASE WHEN ${version} > ${erased} THEN ${value} END,
      ${name}_version = CASE WHEN ${version} > ${erased} THEN ${version} ELSE 0 END`;
  }),
);

const CHANGES = list(
  [
    ...[...FIELD_COLUMNS, 'erased'].map((name) => `excluded.${name}_version > stored.${name}_version`),
    'excluded.created_at < stored.created_at',
    'excluded.updated_at > stored.updated_at',
  ],
  ' OR ',
);

/**
 * Formats a one-dimensional array as PostgreSQL's text form
 * (https://www.postgresql.org/docs/current/arrays.html#ARRAYS-IO). Prisma and pg pass a string on as one value, but
 * visit every element of an array.
 */
export function toArrayLiteral<T>(items: T[], pick: (item: T) => string | number | undefined): string {
  const values = items.map((item) => {
    const value = pick(item);
    return typeof value === 'string' ? toElement(value) : (value ?? 'NULL');
  });
  return `{${values.join(',')}}`;
}

/**
 * Text that needs no quotes in the literal. Quotes cost time, because Prisma converts the literal to JSON, which
 * escapes them.
 */
const PLAIN = /^(?!null$)[\w@+.-](?:[\w@+. -]*[\w@+.-])?$/i;

function toElement(text: string): string {
  if (PLAIN.test(text)) return text;
  return `"${text.includes('"') || text.includes('\\') ? text.replace(/["\\]/g, '\\$&') : text}"`;
}
