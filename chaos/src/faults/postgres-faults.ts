import { setTimeout as delay } from 'node:timers/promises';
import pg from 'pg';
import type { FaultKind } from './faults.js';

/** Faults of a running PostgreSQL. */
export const POSTGRES_FAULTS: FaultKind[] = [
  {
    weight: 2,
    draw({ postgres }, random) {
      const forMs = random.between(500, 3_000);
      const run = () => withoutConnections(postgres.url, () => delay(forMs));
      return { name: 'use up connections of PostgreSQL', victim: postgres.name, run };
    },
  },
  {
    weight: 1,
    draw({ postgres }) {
      const run = () => withClient(postgres.url, async (client) => void (await client.query(END_SESSIONS)));
      return { name: 'end sessions of PostgreSQL', victim: postgres.name, run };
    },
  },
  {
    weight: 1,
    draw({ postgres }, random) {
      const forMs = random.between(500, 6_000);
      const run = () =>
        withClient(postgres.url, async (client) => {
          await client.query('BEGIN; LOCK TABLE customers IN ACCESS EXCLUSIVE MODE');
          await delay(forMs);
          await client.query('ROLLBACK');
        });
      return { name: 'lock the customers in PostgreSQL', victim: postgres.name, run };
    },
  },
  {
    weight: 2,
    draw({ postgres, partners }, random) {
      const forMs = random.between(500, 6_000);
      const run = () =>
        withClient(postgres.url, async (client) => {
          await client.query('BEGIN');
          await client.query(LOCK_HOT_ROWS, [partners[0]?.projectId]);
          await delay(forMs);
          await client.query('ROLLBACK');
        });
      return { name: 'lock rows in PostgreSQL', victim: postgres.name, run };
    },
  },
  {
    weight: 4,
    draw({ postgres }, random) {
      const sqlState = random.pick(TRIGGERED);
      const forMs = random.between(500, 5_000);
      const run = () =>
        withClient(postgres.url, async (client) => {
          await client.query(toTrigger(sqlState));
          await delay(forMs);
          await client.query(DROP_TRIGGER);
        });
      return { name: `reject some customers in PostgreSQL with ${sqlState}`, victim: postgres.name, run };
    },
  },
];

/**
 * SQLSTATEs that a trigger raises: out of memory, shutdown, lost connection, lock not available, serialization failure,
 * and one of no known class.
 */
const TRIGGERED = ['53200', '57P01', '08006', '55P03', '40001', 'P0001'];

/**
 * Rejects a customer who always has entries in flight, and some others. The trigger exists for less time than a worker
 * needs before it makes a dead letter.
 */
const toTrigger = (sqlState: string) => `
  CREATE OR REPLACE FUNCTION chaos_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    IF NEW.customer_id ~ '^(hot-1|c-[0-9]*7)$' THEN RAISE EXCEPTION 'chaos' USING ERRCODE = '${sqlState}'; END IF;
    RETURN NEW;
  END $$;
  CREATE OR REPLACE TRIGGER chaos_refuse BEFORE INSERT OR UPDATE ON customers
  FOR EACH ROW EXECUTE FUNCTION chaos_refuse()`;
const DROP_TRIGGER = 'DROP TRIGGER chaos_refuse ON customers';

const LOCK_HOT_ROWS = `SELECT FROM customers WHERE project_id = $1 AND customer_id LIKE 'hot-%' ORDER BY customer_id FOR UPDATE`;

const END_SESSIONS = `
  SELECT pg_terminate_backend(pid) FROM pg_stat_activity
  WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND application_name LIKE 'opm-%'`;

const TOO_MANY_CONNECTIONS = '53300';

/** Takes all connections, including those of the stack, and holds them until `meanwhile` resolves. */
async function withoutConnections(url: string, meanwhile: () => Promise<void>): Promise<void> {
  const held: pg.Client[] = [];
  const takeOne = async (): Promise<boolean> => {
    const client = new pg.Client({ connectionString: url }).on('error', () => {});
    try {
      await client.connect();
    } catch (error) {
      if ((error as { code?: unknown }).code === TOO_MANY_CONNECTIONS) return false;
      throw error;
    }
    held.push(client);
    return true;
  };
  try {
    while (await takeOne());
    await held[0]?.query(END_SESSIONS);
    while (await takeOne());
    await meanwhile();
  } finally {
    await Promise.all(held.map((client) => client.end()));
  }
}

async function withClient(url: string, use: (client: pg.Client) => Promise<void>): Promise<void> {
  const client = new pg.Client({ connectionString: url }).on('error', () => {});
  await client.connect();
  await use(client).finally(() => client.end());
}
