import { query } from '@opm/testkit';
import { KNOWN_IDS } from './load/run-load.js';

/** Customers as they are once their entries are persisted and settled: rows of project 1, and no claims. */
export async function fillCustomers(databaseUrl: string, count: number): Promise<void> {
  await query(
    databaseUrl,
    `INSERT INTO customers (
       project_id, customer_id, email, phone, first_name, last_name, ip,
       email_version, phone_version, first_name_version, last_name_version, ip_version, created_at, updated_at
     )
     SELECT
       1, '${KNOWN_IDS}' || lpad(n::text, 10, '0'), 'stored.' || n || '@example.com', '+41 44 ' || n, 'First', 'Stored ' || n, '203.0.113.7',
       n, n, n, n, n, now(), now()
     FROM generate_series(1, ${count}) AS n`,
  );
  await query(databaseUrl, 'VACUUM ANALYZE customers');
}

export async function countCustomers(databaseUrl: string): Promise<number> {
  const [row] = await query<{ count: number }>(databaseUrl, 'SELECT count(*)::int AS count FROM customers');
  return row?.count ?? 0;
}

/** Projects without keys, for entries that go past the ingress. The first ones of a database have the ids from 1 on. */
export async function createProjects(databaseUrl: string, count: number): Promise<void> {
  const text = "INSERT INTO projects (name) SELECT 'partner ' || n FROM generate_series(1, $1::int) AS n";
  await query(databaseUrl, text, [count]);
}
