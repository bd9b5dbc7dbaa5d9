import type { CustomerEntry } from '@opm/core';
import pg from 'pg';
import { slice } from './entries.js';

const ROWS = 1_000;
const IN_FLIGHT = 2;

/** What PostgreSQL takes from one process at best: the same rows straight from memory, no queue, no merging. @returns seconds */
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
      INSERT INTO customers (
        project_id, customer_id, email, phone, first_name, last_name, ip,
        email_version, phone_version, first_name_version, last_name_version, ip_version, created_at, updated_at
      )
      SELECT 1, customer_id, email, phone, first_name, last_name, ip, version, version, version, version, version, now(), now()
      FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
        AS given (customer_id, email, phone, first_name, last_name, ip, version)
      ON CONFLICT (project_id, customer_id) DO UPDATE SET
        email = excluded.email, phone = excluded.phone, first_name = excluded.first_name,
        last_name = excluded.last_name, ip = excluded.ip,
        email_version = excluded.email_version, phone_version = excluded.phone_version,
        first_name_version = excluded.first_name_version, last_name_version = excluded.last_name_version,
        ip_version = excluded.ip_version, updated_at = excluded.updated_at`,
    values: [
      batch.map(({ customerId }) => customerId),
      batch.map(({ fields }) => fields?.email),
      batch.map(({ fields }) => fields?.phone),
      batch.map(({ fields }) => fields?.firstName),
      batch.map(({ fields }) => fields?.lastName),
      batch.map(({ fields }) => fields?.ip),
      batch.map(({ version }) => version),
    ],
  });
}
