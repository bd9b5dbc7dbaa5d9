import pg from 'pg';
import { StoreError, toStoreError } from './store-error.js';

const CONNECT_TIMEOUT_MS = 10_000;

/** Whom the processes run as where they are to change no table. With a password it is made where it is not there, or gets it. */
export type AppRole = { name: string; password?: string | undefined };

/**
 * Gives a role what the processes need when the queue is on Redis, to read and write rows. It is to be repeated when
 * migrations have made new tables.
 * @param databaseUrl the owner's
 * @throws StoreError
 */
export function grantToAppRole(databaseUrl: string, { name, password }: AppRole): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl, connectionTimeoutMillis: CONNECT_TIMEOUT_MS });
  const role = pg.escapeIdentifier(name);

  async function makeRole(): Promise<void> {
    const text = 'SELECT current_user = $1 AS is_owner, EXISTS (SELECT FROM pg_roles WHERE rolname = $1) AS is_there';
    const { rows } = await client.query<{ is_owner: boolean; is_there: boolean }>(text, [name]);
    const [{ is_owner: isOwner, is_there: isThere } = { is_owner: false, is_there: false }] = rows;
    if (isOwner) throw new StoreError('it owns the tables: name another role than that of DATABASE_URL');
    if (password === undefined && !isThere) throw new StoreError('there is no such role');
    if (password === undefined) return;
    await client.query(`${isThere ? 'ALTER' : 'CREATE'} ROLE ${role} LOGIN PASSWORD ${pg.escapeLiteral(password)}`);
  }

  return toStoreError(async () => {
    try {
      await client.connect();
      await client.query(`BEGIN; SELECT pg_advisory_xact_lock(hashtext('opm app role'))`); // for who does it at the same time
      await makeRole();
      await client.query(`
        GRANT USAGE ON SCHEMA public TO ${role};
        GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO ${role};
        GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO ${role};
        REVOKE ALL ON _prisma_migrations FROM ${role};
        COMMIT`);
    } finally {
      await client.end();
    }
  });
}
