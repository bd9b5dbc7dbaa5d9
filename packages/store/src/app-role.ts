import pg from 'pg';
import { toScramVerifier } from './scram-verifier.js';
import { StoreError, toStoreError } from './store-error.js';

const CONNECT_TIMEOUT_MS = 10_000;

/** Whom the processes run as where they are to change no table. With a password it is made where it is not there, or gets it. */
export type AppRole = { name: string; password?: string | undefined };

const TABLES = [
  ...['projects', 'api_keys', 'access_revision'],
  ...['customers', 'dead_letters', 'erasures', 'high_water_mark'],
].map((table) => `public.${table}`);
const RIGHTS = ['SELECT', 'INSERT', 'UPDATE', 'DELETE'];

/** What is there of the role; `isOwner` where it owns a table or the database, by itself, through another role or as a superuser. */
const FIND_ROLE = `
  SELECT rolcanlogin AS "canLogin", EXISTS (
    SELECT FROM (
      SELECT relowner FROM pg_class WHERE oid = ANY($2::text[]::regclass[])
      UNION ALL SELECT datdba FROM pg_database WHERE datname = current_database()
    ) AS owners (owner) WHERE pg_has_role(pg_roles.oid, owner, 'MEMBER')
  ) AS "isOwner"
  FROM pg_roles WHERE rolname = $1`;

/** A GRANT by somebody who may not is a warning and no error. */
const HAS_ALL = `
  SELECT bool_and(has_table_privilege($1, t.name, r.name)) AND has_schema_privilege($1, 'public', 'USAGE')
    AND has_database_privilege($1, current_database(), 'CONNECT') AS "hasAll"
  FROM unnest($2::text[]) AS t (name), unnest($3::text[]) AS r (name)`;

/**
 * Gives a role what the processes need when the queue is on Redis: to read and write the rows of our tables, and of those that
 * the same owner makes from now on.
 * @param databaseUrl the owner's
 * @throws StoreError that says what is wrong with the role
 */
export function grantToAppRole(databaseUrl: string, { name, password }: AppRole): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl, connectionTimeoutMillis: CONNECT_TIMEOUT_MS });
  const role = pg.escapeIdentifier(name);

  async function makeRole(): Promise<void> {
    const { rows } = await client.query<{ canLogin: boolean; isOwner: boolean }>(FIND_ROLE, [name, TABLES]);
    const [found] = rows;
    if (found?.isOwner) throw new StoreError('it owns the tables or the database: name a role that owns nothing');
    if (password !== undefined) {
      const verifier = pg.escapeLiteral(toScramVerifier(password));
      await client.query(`${found ? 'ALTER' : 'CREATE'} ROLE ${role} LOGIN PASSWORD ${verifier}`);
    } else if (!found?.canLogin) {
      throw new StoreError(found ? 'this role cannot log in' : 'there is no such role');
    }
  }

  async function grant(): Promise<void> {
    const { rows } = await client.query<{ name: string }>(
      `SELECT sequence.oid::regclass::text AS name FROM pg_class sequence JOIN pg_depend ON objid = sequence.oid
       WHERE relkind = 'S' AND refobjid = ANY($1::text[]::regclass[])`,
      [TABLES],
    );
    const database = pg.escapeIdentifier(client.database ?? '');
    const rights = RIGHTS.join(', ');
    await client.query(`
      GRANT CONNECT ON DATABASE ${database} TO ${role};
      GRANT USAGE ON SCHEMA public TO ${role};
      GRANT ${rights} ON ${TABLES.join(', ')} TO ${role};
      ${rows.map((sequence) => `GRANT USAGE ON SEQUENCE ${sequence.name} TO ${role};`).join('\n')}
      ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ${rights} ON TABLES TO ${role};
      ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO ${role}`);
  }

  async function assertGranted(): Promise<void> {
    const { rows } = await client.query<{ hasAll: boolean }>(HAS_ALL, [name, TABLES, RIGHTS]);
    if (!rows[0]?.hasAll) throw new StoreError('whoever DATABASE_URL names may not give it the rights: name the owner');
  }

  return toStoreError(async () => {
    try {
      await client.connect();
      await client.query(`BEGIN; SELECT pg_advisory_xact_lock(hashtext('opm app role'))`); // for who does it at the same time
      await makeRole();
      await grant();
      await assertGranted();
      await client.query('COMMIT');
    } finally {
      await client.end();
    }
  });
}
