import { RECORD_TTL_US, type Version } from '@opm/core';
import { Prisma, type PrismaClient } from './generated/client.js';
import { type CustomerRow, toArrayLiteral } from './upsert-customers.js';

/**
 * Completes the erasures among the rows: inserts them into `erasures`, then deletes the customers' older dead
 * letters, which contain erased data. The order matters: a concurrent dead letter either finds the erasure or is
 * deleted here. Idempotent.
 */
export async function noteErasures(prisma: PrismaClient, rows: CustomerRow[]): Promise<void> {
  const erased = rows.filter(({ state }) => state.erasedVersion > 0);
  if (erased.length === 0) return;
  const given = Prisma.sql`
    unnest(
      ${erased.map(({ projectId }) => projectId)}::int[],
      ${erased.map(({ customerId }) => customerId)}::text[],
      ${erased.map(({ state }) => state.erasedVersion)}::bigint[]
    ) AS erased (project_id, customer_id, version)`;
  await prisma.$executeRaw`
    INSERT INTO erasures AS noted (project_id, customer_id, version)
    SELECT project_id, customer_id, version FROM ${given}
    ORDER BY project_id, customer_id
    ON CONFLICT (project_id, customer_id) DO UPDATE SET version = greatest(noted.version, excluded.version)`;
  await prisma.$executeRaw`
    DELETE FROM dead_letters AS letter USING ${given}
    WHERE letter.project_id = erased.project_id AND letter.customer_id = erased.customer_id
      AND letter.version <= erased.version`;
}

/** Returns the indexes of the entries that a known erasure covers. */
export async function findErased(
  prisma: PrismaClient,
  entries: { projectId: number; customerId: string; version: Version }[],
): Promise<Set<number>> {
  const column = (pick: (entry: (typeof entries)[number]) => string | number) => toArrayLiteral(entries, pick);
  const rows = await prisma.$queryRaw<{ place: number }[]>`
    SELECT asked.place::int
    FROM unnest(
      ${column(({ projectId }) => projectId)}::int[],
      ${column(({ customerId }) => customerId)}::text[],
      ${column(({ version }) => version)}::bigint[]
    ) WITH ORDINALITY AS asked (project_id, customer_id, version, place)
    JOIN erasures AS erased USING (project_id, customer_id)
    WHERE erased.version >= asked.version`;
  return new Set(rows.map(({ place }) => place - 1));
}

const PURGE_BATCH = 5_000;

/**
 * Deletes the tombstones of erasures before this time, and the customers' dead letters that are older than the
 * erasure. A later replay of those would restore the erased customer. It keeps customers that were re-created.
 *
 * Tombstones stay while an older entry may still be queued or repeated, whatever the clocks say. It deletes nothing
 * while a dead letter without a project exists, because that may contain entries of any customer.
 * @returns the number of customer rows deleted
 */
export async function purgeTombstones(prisma: PrismaClient, before: Date): Promise<number> {
  const beforeVersion = before.getTime() * 1_000;
  let purged = 0;
  for (;;) {
    const [batch] = await prisma.$queryRaw<[{ due: number; gone: number }]>`
      WITH due AS (
        DELETE FROM erasures WHERE (project_id, customer_id) IN (
          SELECT project_id, customer_id FROM erasures
          WHERE version < ${beforeVersion}::bigint
            AND version < (SELECT finished_before - ${RECORD_TTL_US}::bigint FROM high_water_mark)
            AND NOT EXISTS (SELECT FROM dead_letters WHERE project_id IS NULL)
          ORDER BY version LIMIT ${PURGE_BATCH}
          FOR UPDATE SKIP LOCKED
        )
        RETURNING project_id, customer_id, version
      ), gone AS (
        DELETE FROM customers AS stored USING due
        WHERE stored.project_id = due.project_id AND stored.customer_id = due.customer_id
          AND stored.email IS NULL AND stored.phone IS NULL AND stored.erased_version <= due.version
        RETURNING 1
      ), forgotten AS (
        DELETE FROM dead_letters AS letter USING due
        WHERE letter.project_id = due.project_id AND letter.customer_id = due.customer_id
          AND letter.version <= due.version
      )
      SELECT (SELECT count(*) FROM due)::int AS due, (SELECT count(*) FROM gone)::int AS gone`;
    purged += batch.gone;
    if (batch.due < PURGE_BATCH) return purged;
  }
}
