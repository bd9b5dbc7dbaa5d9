import { FIELDS, type Version } from '@opm/core';
import type pg from 'pg';
import { toArrayLiteral } from './array-literal.js';
import { findErased, noteErasures, purgeTombstones } from './erasures.js';
import type { PrismaClient } from './generated/client.js';
import type { HighWaterMark } from './high-water-mark.js';
import { toStoreError } from './store-error.js';
import { type CustomerRow, type TriedRows, toTime, upsertCustomers, upsertEachCustomer } from './upsert-customers.js';

export type StoredCustomer = {
  projectId: number;
  customerId: string;
  email: string | null;
  phone: string | null;
  firstName: string | null;
  lastName: string | null;
  ip: string | null;
  createdAt: Date;
  updatedAt: Date;
};

export type Customers = ReturnType<typeof createCustomers>;

/** A row without these two is the tombstone of an erasure: every entry gives at least one of them. */
const isLive = { OR: [{ email: { not: null } }, { phone: { not: null } }] };

const visible = Object.fromEntries(
  (['projectId', 'customerId', ...FIELDS, 'createdAt', 'updatedAt'] as const).map((column) => [column, true]),
) as { [Column in keyof StoredCustomer]: true };

/** Whether a customer existed, or may have existed, before this version. */
export type Asked = { projectId: number; customerId: string; version: Version };

/**
 * Its plan is made once per connection, when the table may be small still: the limit has each customer looked up by
 * itself, where a join could read the whole table each time for as long as PostgreSQL keeps the plan.
 */
const FIND_EXISTING = `
  SELECT asked.place::int
  FROM (
    SELECT project_id, customer_id, $3::bigint + step AS version, place
    FROM unnest($1::int[], $2::text[], $4::bigint[]) WITH ORDINALITY AS steps (project_id, customer_id, step, place)
  ) AS asked,
  LATERAL (
    SELECT * FROM customers WHERE project_id = asked.project_id AND customer_id = asked.customer_id LIMIT 1
  ) AS c
  WHERE ((c.email IS NOT NULL OR c.phone IS NOT NULL) AND (
    -- After an erasure created_at is the erasure's, and says nothing of when the new life began.
    (c.created_at > ${toTime('c.erased_version').sql} AND c.created_at < ${toTime('asked.version').sql})
    OR least(
      nullif(c.email_version, 0), nullif(c.phone_version, 0), nullif(c.first_name_version, 0),
      nullif(c.last_name_version, 0), nullif(c.ip_version, 0)
    ) < asked.version
  ))
  -- Of one who was ever erased, a row as new as the question does not tell: rather no 201 than a second one.
  OR (c.erased_version > 0 AND c.updated_at >= ${toTime('asked.version').sql})`;

/**
 * As large as rows may be, so that a disk with room for it has room for others, and taken back. It has another id each time: a
 * trigger that refuses some customers should not refuse it again and again. The function that writes what is suspect must be there.
 */
const TRY_WRITE = `
  DO $$ BEGIN
    PERFORM try_each('SELECT', '{}');
    INSERT INTO customers (project_id, customer_id, email, phone, first_name, last_name, ip, created_at, updated_at)
    VALUES (
      0, gen_random_uuid(), repeat('-', 320), repeat('-', 64), repeat('-', 255), repeat('-', 255), repeat('-', 64), now(), now()
    );
    RAISE SQLSTATE 'OPM00';
  EXCEPTION WHEN SQLSTATE 'OPM00' THEN NULL;
  END $$`;

export function createCustomers(prisma: PrismaClient, pool: pg.Pool, mark: HighWaterMark) {
  async function findMany(projectId: number, customerIds: string[]): Promise<Map<string, StoredCustomer>> {
    const customers = await toStoreError(() =>
      prisma.customer.findMany({ where: { projectId, customerId: { in: customerIds }, ...isLive }, select: visible }),
    );
    return new Map(customers.map((customer) => [customer.customerId, customer]));
  }

  return {
    /** Merges the rows into the table with one statement; each (projectId, customerId) at most once. */
    async upsert(rows: CustomerRow[]): Promise<void> {
      const versions = rows.map(({ state }) => state.lastVersion);
      await mark.write(versions, () => upsertCustomers(prisma, rows));
      await toStoreError(() => noteErasures(prisma, rows));
    },

    /**
     * The same for each row by itself: one that fails leaves the others as they are.
     * @returns those that failed, and those that were not tried: behind a row that another session holds, or for want of time
     */
    async upsertEach(rows: CustomerRow[]): Promise<TriedRows> {
      if (rows.length === 0) return { failed: [], untried: [] };
      const versions = rows.map(({ state }) => state.lastVersion);
      const tried = await mark.write(versions, () => upsertEachCustomer(prisma, rows));
      const left = new Set([...tried.failed.map(({ row }) => row), ...tried.untried]);
      await toStoreError(() =>
        noteErasures(
          prisma,
          rows.filter((row) => !left.has(row)),
        ),
      );
      return tried;
    },

    /** Writes a row that is nobody's, and takes it back: whether PostgreSQL takes writes. @throws StoreError */
    tryWrite: (): Promise<void> => toStoreError(async () => void (await pool.query(TRY_WRITE))),

    /** Deletes what is left of customers that were erased before that time. @returns how many */
    purgeTombstones: (before: Date): Promise<number> => toStoreError(() => purgeTombstones(prisma, before)),

    /** Which of these entries came before an erasure that is remembered still, by their places in the list. */
    findErased: (entries: Asked[]): Promise<Set<number>> => toStoreError(() => findErased(prisma, entries)),

    async find(projectId: number, customerId: string): Promise<StoredCustomer | undefined> {
      return (await findMany(projectId, [customerId])).get(customerId);
    },

    /** Those of these customers that there are, by their ids. */
    findMany,

    /** The next ones after that id; ids are in the order of the table's collation. */
    page: (projectId: number, { afterId, limit }: { afterId: string; limit: number }): Promise<StoredCustomer[]> =>
      toStoreError(() =>
        prisma.customer.findMany({
          where: { projectId, customerId: { gt: afterId }, ...isLive },
          orderBy: { customerId: 'asc' },
          take: limit,
          select: visible,
        }),
      ),

    /**
     * Which of these customers existed before the entry of that version, by their places in the list. A row may be
     * younger than the question: a later entry can overtake the one that asks and be persisted first. It goes past Prisma,
     * because a partner waits for it.
     */
    async findExisting(asked: Asked[]): Promise<Set<number>> {
      const projectIds = toArrayLiteral(asked, ({ projectId }) => projectId);
      const ids = toArrayLiteral(asked, ({ customerId }) => customerId);
      const first = asked[0]?.version ?? 0;
      const steps = toArrayLiteral(asked, ({ version }) => version - first); // shorter, and quicker to write
      const query = { name: 'find-existing', text: FIND_EXISTING, rowMode: 'array' as const };
      const { rows } = await toStoreError(() =>
        pool.query<[place: number]>({ ...query, values: [projectIds, ids, first, steps] }),
      );
      return new Set(rows.map(([place]) => place - 1));
    },
  };
}
