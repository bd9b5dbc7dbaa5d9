import type { CustomerEntry } from '@opm/core';
import pg from 'pg';
import { slice } from './entries.js';

const ROWS = 1_000;
const IN_FLIGHT = 2;

/** What PostgreSQL takes from one process at best: no queue, no versions, arrays straight from memory. @returns seconds */
export async function writeAtCeiling(databaseUrl: string, entries: CustomerEntry[]): Promise<number> {
  const pool = new pg.Pool({ connectionString: databaseUrl, max: IN_FLIGHT });
  await Promise.all(Array.from({ length: IN_FLIGHT }, () => pool.query('SELECT 1')));
  const batches = slice(entries, ROWS);
  const start = performance.now();
  await Promise.all(
    Array.from({ length: IN_FLIGHT }, async () => {
      for (const batch of batches) await write(pool, batch);
    }),
  );
  const seconds = (performance.now() - start) / 1_000;
  await pool.end();
  return seconds;
}

async function write(pool: pg.Pool, batch: CustomerEntry[]): Promise<void> {
  await pool.query({
    name: 'write',
    text: `
      INSERT INTO customers (project_id, customer_id, email, phone, first_name, last_name, ip, created_at, updated_at)
      SELECT 1, customer_id, email, phone, first_name, last_name, ip, now(), now()
      FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
        AS given (customer_id, email, phone, first_name, last_name, ip)
      ON CONFLICT (project_id, customer_id) DO UPDATE SET
        email = excluded.email, phone = excluded.phone, first_name = excluded.first_name,
        last_name = excluded.last_name, ip = excluded.ip, updated_at = excluded.updated_at`,
    values: [
      batch.map(({ customerId }) => customerId),
      batch.map(({ fields }) => fields?.email),
      batch.map(({ fields }) => fields?.phone),
      batch.map(({ fields }) => fields?.firstName),
      batch.map(({ fields }) => fields?.lastName),
      batch.map(({ fields }) => fields?.ip),
    ],
  });
}
