import type { PrismaClient } from './generated/client.js';
import type { CustomerRow } from './upsert-customers.js';

/**
 * What an erasure does beside the customer's row: it notes the tombstone, and forgets the customer's older dead letters,
 * which hold what the erased entries said. Doing it twice changes nothing.
 */
export async function noteErasures(prisma: PrismaClient, rows: CustomerRow[]): Promise<void> {
  const erased = rows.filter(({ state }) => state.erasedVersion > 0);
  if (erased.length === 0) return;
  await prisma.$executeRaw`
    WITH erased AS (
      SELECT * FROM unnest(
        ${erased.map(({ projectId }) => projectId)}::int[],
        ${erased.map(({ customerId }) => customerId)}::text[],
        ${erased.map(({ state }) => state.erasedVersion)}::bigint[]
      ) AS erased (project_id, customer_id, version)
    ), forgotten AS (
      DELETE FROM dead_letters AS letter USING erased
      WHERE letter.project_id = erased.project_id AND letter.customer_id = erased.customer_id
        AND letter.version <= erased.version
    )
    INSERT INTO erasures AS noted (project_id, customer_id, version)
    SELECT project_id, customer_id, version FROM erased
    ORDER BY project_id, customer_id
    ON CONFLICT (project_id, customer_id) DO UPDATE SET version = greatest(noted.version, excluded.version)`;
}

const PURGE_BATCH = 5_000;

/**
 * Deletes the tombstones of erasures before that time, and with them the dead letters that are older still: replayed
 * later, those would bring the erased customer back. A customer that came back since is not touched.
 * @returns how many tombstones are gone
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
