import { runMigrations } from 'bullmq';
import pg from 'pg';

/** Brings BullMQ's own tables, in the schema `bullmq`, up to the version that this package speaks. Safe to run again. */
export async function migrateQueue(databaseUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl, connectionTimeoutMillis: 10_000 });
  await client.connect();
  try {
    await runMigrations(client);
  } finally {
    await client.end();
  }
}
