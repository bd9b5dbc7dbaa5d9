import { type CustomerState, FIELDS, type Field, toDate, type Version } from '@opm/core';
import type pg from 'pg';
import { findErased, noteErasures, purgeTombstones } from './erasures.js';
import type { PrismaClient } from './generated/client.js';
import type { HighWaterMark } from './high-water-mark.js';
import { toStoreError } from './store-error.js';
import {
  type CustomerRow,
  FIELD_COLUMNS,
  type TriedRows,
  toArrayLiteral,
  toTime,
  upsertCustomers,
  upsertEachCustomer,
} from './upsert-customers.js';

export type StoredCustomer = { projectId: number; customerId: string; createdAt: Date; updatedAt: Date } & {
  [F in Field]: string | null;
};

/** A customer's row with its versions. `stored` is undefined for a tombstone. */
export type VersionedCustomer = Pick<CustomerState, 'versions' | 'erasedVersion'> & {
  stored: StoredCustomer | undefined;
};

/**
 * A customer's row, which may be a tombstone. `writtenAt`: when the partner's entry with this value was admitted.
 * `createdAt` is null for a tombstone, `erasedAt` if the customer was never erased.
 */
export type CustomerHistory = {
  fields: { [F in Field]: { value: string; writtenAt: Date } | null };
  createdAt: Date | null;
  updatedAt: Date;
  erasedAt: Date | null;
};

export type Customers = ReturnType<typeof createCustomers>;

/** Excludes tombstones. Every entry sets an email or a phone, so a row without both is a tombstone. */
const isLive = { OR: [{ email: { not: null } }, { phone: { not: null } }] };

const selectedColumns = Object.fromEntries(
  (['projectId', 'customerId', ...FIELDS, 'createdAt', 'updatedAt'] as const).map((column) => [column, true]),
) as { [Column in keyof StoredCustomer]: true };

const versionColumns = Object.fromEntries([...FIELDS, 'erased' as const].map((name) => [`${name}Version`, true])) as {
  [F in Field | 'erased' as `${F}Version`]: true;
};

/** Asks whether a customer existed before this version. */
export type ExistenceQuery = { projectId: number; customerId: string; version: Version };

/**
 * PostgreSQL plans this statement a few times per connection, maybe while the table is still small. LIMIT forces an
 * index look-up per customer; the plan of a join could read the whole table every time, for as long as PostgreSQL keeps
 * the plan. The arrays are in subqueries, which hide their lengths from the planner. Otherwise, for fewer than ten
 * customers, PostgreSQL considers a new plan cheaper than the one it keeps, and plans each such look-up anew, which
 * takes ten times as long.
 */
const FIND_EXISTING = `
  SELECT asked.place::int
  FROM (
    SELECT project_id, customer_id, $3::bigint + step AS version, place
    FROM unnest((SELECT $1::int[]), (SELECT $2::text[]), (SELECT $4::bigint[])) WITH ORDINALITY
      AS steps (project_id, customer_id, step, place)
  ) AS asked,
  LATERAL (
    SELECT * FROM customers WHERE project_id = asked.project_id AND customer_id = asked.customer_id LIMIT 1
  ) AS c
  WHERE ((c.email IS NOT NULL OR c.phone IS NOT NULL) AND (
    -- After an erasure, created_at is the time of the erasure, not of the customer's re-creation.
    (c.created_at > ${toTime('c.erased_version').sql} AND c.created_at < ${toTime('asked.version').sql})
    OR least(${FIELD_COLUMNS.map((column) => `nullif(c.${column}_version, 0)`).join(', ')}) < asked.version
  ))
  -- If the customer was ever erased, a row as new as asked.version does not show whether
  -- the customer existed before. It counts as existing, because a missing 201 is better than a second one.
  OR (c.erased_version > 0 AND c.updated_at >= ${toTime('asked.version').sql})`;

/**
 * Writes a test row and rolls it back.
 * - It is larger than any row of ASCII fields, so a full disk rejects it, too.
 * - It has a new id each time, because a trigger may reject certain customers.
 * - It calls `try_each`, because the function that writes isolated rows must exist.
 */
const TRY_WRITE = `
  DO $$ BEGIN
    PERFORM try_each('SELECT', '{}');
    INSERT INTO customers (project_id, customer_id, ${FIELD_COLUMNS.join(', ')}, created_at, updated_at)
    VALUES (0, gen_random_uuid(), ${FIELD_COLUMNS.map(() => "repeat('-', 320)").join(', ')}, now(), now());
    RAISE SQLSTATE 'OPM00';
  EXCEPTION WHEN SQLSTATE 'OPM00' THEN NULL;
  END $$`;

export function createCustomers(prisma: PrismaClient, pool: pg.Pool, mark: HighWaterMark) {
  async function findMany(projectId: number, customerIds: string[]): Promise<Map<string, StoredCustomer>> {
    const customers = await toStoreError(() =>
      prisma.customer.findMany({
        where: { projectId, customerId: { in: customerIds }, ...isLive },
        select: selectedColumns,
      }),
    );
    return new Map(customers.map((customer) => [customer.customerId, customer]));
  }

  return {
    /** Merges the rows into the table with one statement. Each (projectId, customerId) must be unique in `rows`. */
    async upsert(rows: CustomerRow[]): Promise<void> {
      const versions = rows.map(({ state }) => state.lastVersion);
      await mark.write(versions, () => upsertCustomers(prisma, rows));
      await toStoreError(() => noteErasures(prisma, rows));
    },

    /**
     * Merges each row by itself, so that a row that fails does not affect the others.
     * @returns the rows that failed, and the rows that were not tried: those after a locked row, or after half a second
     */
    async upsertEach(rows: CustomerRow[]): Promise<TriedRows> {
      if (rows.length === 0) return { failed: [], untried: [] };
      const versions = rows.map(({ state }) => state.lastVersion);
      const tried = await mark.write(versions, () => upsertEachCustomer(prisma, rows));
      const unwritten = new Set([...tried.failed.map(({ row }) => row), ...tried.untried]);
      await toStoreError(() =>
        noteErasures(
          prisma,
          rows.filter((row) => !unwritten.has(row)),
        ),
      );
      return tried;
    },

    /** Checks that PostgreSQL accepts writes: writes a test row and rolls it back. @throws StoreError */
    tryWrite: (): Promise<void> => toStoreError(async () => void (await pool.query(TRY_WRITE))),

    /** Deletes the tombstones of customers that were erased before this time. @returns the number of tombstones */
    purgeTombstones: (before: Date): Promise<number> => toStoreError(() => purgeTombstones(prisma, before)),

    /** Returns the indexes of the entries that a known erasure covers. */
    findErased: (entries: ExistenceQuery[]): Promise<Set<number>> => toStoreError(() => findErased(prisma, entries)),

    async find(projectId: number, customerId: string): Promise<StoredCustomer | undefined> {
      return (await findMany(projectId, [customerId])).get(customerId);
    },

    /** Finds the existing customers among these ids, by id. */
    findMany,

    /** Finds the rows of these customers, tombstones included, by id. */
    async findVersioned(projectId: number, customerIds: string[]): Promise<Map<string, VersionedCustomer>> {
      const rows = await toStoreError(() =>
        prisma.customer.findMany({
          where: { projectId, customerId: { in: customerIds } },
          select: { ...selectedColumns, ...versionColumns },
        }),
      );
      return new Map(rows.map((row) => [row.customerId, toVersioned(row)]));
    },

    /** Finds a customer with the times of its fields, or the tombstone of one. */
    async findHistory(projectId: number, customerId: string): Promise<CustomerHistory | undefined> {
      const row = await toStoreError(() =>
        prisma.customer.findUnique({ where: { projectId_customerId: { projectId, customerId } } }),
      );
      if (!row) return undefined;
      const fields = FIELDS.map((field) => {
        const value = row[field];
        return [field, value === null ? null : { value, writtenAt: toDate(Number(row[`${field}Version`])) }] as const;
      });
      const { createdAt, updatedAt, erasedVersion } = row;
      return {
        fields: Object.fromEntries(fields) as CustomerHistory['fields'],
        createdAt: fields.some(([, field]) => field) ? createdAt : null,
        updatedAt,
        erasedAt: erasedVersion > 0n ? toDate(Number(erasedVersion)) : null,
      };
    },

    /** Returns the next `limit` customers after `afterId`, in the order of the table's collation. */
    page: (projectId: number, { afterId, limit }: { afterId: string; limit: number }): Promise<StoredCustomer[]> =>
      toStoreError(() =>
        prisma.customer.findMany({
          where: { projectId, customerId: { gt: afterId }, ...isLive },
          orderBy: { customerId: 'asc' },
          take: limit,
          select: selectedColumns,
        }),
      ),

    /**
     * Returns the indexes of the customers that existed before their version. A row may be newer than that version,
     * because a later entry can be persisted first. This bypasses Prisma for speed, because a partner waits for the
     * answer.
     */
    async findExisting(asked: ExistenceQuery[]): Promise<Set<number>> {
      const projectIds = toArrayLiteral(asked, ({ projectId }) => projectId);
      const ids = toArrayLiteral(asked, ({ customerId }) => customerId);
      const first = asked[0]?.version ?? 0;
      const steps = toArrayLiteral(asked, ({ version }) => version - first); // shorter, so faster to format
      const query = { name: 'find-existing', text: FIND_EXISTING, rowMode: 'array' as const };
      const { rows } = await toStoreError(() =>
        pool.query<[place: number]>({ ...query, values: [projectIds, ids, first, steps] }),
      );
      return new Set(rows.map(([place]) => place - 1));
    },
  };
}

function toVersioned(row: StoredCustomer & { [F in Field | 'erased' as `${F}Version`]: bigint }): VersionedCustomer {
  const versions = FIELDS.map((field) => [field, Number(row[`${field}Version`])] as const);
  return {
    stored: row.email === null && row.phone === null ? undefined : row,
    versions: Object.fromEntries(versions) as Record<Field, Version>,
    erasedVersion: Number(row.erasedVersion),
  };
}
