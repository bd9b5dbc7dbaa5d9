import { createHmac, hash, pbkdf2Sync, randomBytes } from 'node:crypto';
import pg from 'pg';
import { StoreError, toStoreError } from './store-error.js';

const TIMEOUT_MS = 5_000;

/**
 * Prisma's migration history, with finished and unfinished migrations:
 * https://www.prisma.io/docs/orm/prisma-migrate/understanding-prisma-migrate/migration-histories
 */
const FIND_MIGRATIONS = `
  SELECT migration_name AS name, finished_at IS NOT NULL AS "isFinished"
  FROM public._prisma_migrations WHERE rolled_back_at IS NULL`;
const UNDEFINED_TABLE = '42P01';

/**
 * Whether the database has all of these migrations and no unfinished one.
 * @throws StoreError within 10 s
 */
export function hasMigrations(databaseUrl: string, names: readonly string[]): Promise<boolean> {
  const client = new pg.Client({
    connectionString: databaseUrl,
    connectionTimeoutMillis: TIMEOUT_MS,
    query_timeout: TIMEOUT_MS,
  });
  return toStoreError(async () => {
    try {
      await client.connect();
      const { rows } = await client.query<{ name: string; isFinished: boolean }>(FIND_MIGRATIONS);
      const found = new Set(rows.map(({ name }) => name));
      return rows.every(({ isFinished }) => isFinished) && names.every((name) => found.has(name));
    } catch (error) {
      if (error instanceof pg.DatabaseError && error.code === UNDEFINED_TABLE) return false;
      throw error;
    } finally {
      await client.end();
    }
  });
}

const CONNECT_TIMEOUT_MS = 10_000;

/**
 * A role that may change rows but not tables, for the processes. With a password, the role is created or gets this
 * password.
 */
export type AppRole = { name: string; password?: string | undefined };

const TABLES = [
  ...['projects', 'api_keys', 'access_revision'],
  ...['customers', 'dead_letters', 'erasures', 'high_water_mark'],
  ...['project_minutes', 'project_days', 'processes', 'key_uses'],
  ...['operators', 'operator_sessions'],
].map((table) => `public.${table}`);
const RIGHTS = ['SELECT', 'INSERT', 'UPDATE', 'DELETE'];
const AUDIT_LOG = 'public.audit_log';
const OWN_TABLES = [...TABLES, AUDIT_LOG];

/** `isOwner`: the role owns a table or the database, by itself, as a member of another role or as a superuser. */
const FIND_ROLE = `
  SELECT rolcanlogin AS "canLogin", EXISTS (
    SELECT FROM (
      SELECT relowner FROM pg_class WHERE oid = ANY($2::text[]::regclass[])
      UNION ALL SELECT datdba FROM pg_database WHERE datname = current_database()
    ) AS owners (owner) WHERE pg_has_role(pg_roles.oid, owner, 'MEMBER')
  ) AS "isOwner"
  FROM pg_roles WHERE rolname = $1`;

/** Checks the privileges, because a GRANT without the right to grant is a warning in PostgreSQL, not an error. */
const HAS_ALL = `
  SELECT bool_and(has_table_privilege($1, t.name, r.name))
    AND has_table_privilege($1, '${AUDIT_LOG}', 'SELECT') AND has_table_privilege($1, '${AUDIT_LOG}', 'INSERT')
    AND has_schema_privilege($1, 'public', 'USAGE')
    AND has_database_privilege($1, current_database(), 'CONNECT') AS "hasAll",
    has_table_privilege($1, '${AUDIT_LOG}', 'UPDATE, DELETE, TRUNCATE') AS "canChangeAudit"
  FROM unnest($2::text[]) AS t (name), unnest($3::text[]) AS r (name)`;

/**
 * Grants a role the privileges that the processes need if the queue is on Redis: to read and write the rows of our
 * tables, and of tables that the same owner creates later. Of the audit log, only to read and add rows.
 * @param databaseUrl URL with the owner of the tables
 * @throws StoreError if the role cannot have the privileges
 */
export function grantToAppRole(databaseUrl: string, { name, password }: AppRole): Promise<void> {
  const client = new pg.Client({ connectionString: databaseUrl, connectionTimeoutMillis: CONNECT_TIMEOUT_MS });
  const role = pg.escapeIdentifier(name);

  async function ensureRole(): Promise<void> {
    const { rows } = await client.query<{ canLogin: boolean; isOwner: boolean }>(FIND_ROLE, [name, OWN_TABLES]);
    const [found] = rows;
    if (found?.isOwner) throw new StoreError('the role owns the tables or the database; name a role that owns nothing');
    if (password !== undefined) {
      const verifier = pg.escapeLiteral(toScramVerifier(password));
      await client.query(`${found ? 'ALTER' : 'CREATE'} ROLE ${role} LOGIN PASSWORD ${verifier}`);
    } else if (!found?.canLogin) {
      throw new StoreError(found ? 'the role cannot log in' : 'the role does not exist');
    }
  }

  async function grant(): Promise<void> {
    const { rows } = await client.query<{ name: string }>(
      `SELECT sequence.oid::regclass::text AS name FROM pg_class sequence JOIN pg_depend ON objid = sequence.oid
       WHERE relkind = 'S' AND refobjid = ANY($1::text[]::regclass[])`,
      [OWN_TABLES],
    );
    const database = pg.escapeIdentifier(client.database ?? '');
    const rights = RIGHTS.join(', ');
    await client.query(`
      GRANT CONNECT ON DATABASE ${database} TO ${role};
      GRANT USAGE ON SCHEMA public TO ${role};
      GRANT ${rights} ON ${TABLES.join(', ')} TO ${role};
      REVOKE ALL ON ${AUDIT_LOG} FROM ${role};
      GRANT SELECT, INSERT ON ${AUDIT_LOG} TO ${role};
      ${rows.map((sequence) => `GRANT USAGE ON SEQUENCE ${sequence.name} TO ${role};`).join('\n')}
      ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ${rights} ON TABLES TO ${role};
      ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO ${role}`);
  }

  async function assertGranted(): Promise<void> {
    const { rows } = await client.query<{ hasAll: boolean; canChangeAudit: boolean }>(HAS_ALL, [name, TABLES, RIGHTS]);
    if (!rows[0]?.hasAll)
      throw new StoreError('the role in DATABASE_URL cannot grant the privileges; name the owner of the tables');
    if (rows[0].canChangeAudit)
      throw new StoreError(`the role may change rows of ${AUDIT_LOG} as a member of another role or as PUBLIC`);
  }

  return toStoreError(async () => {
    try {
      await client.connect();
      // The lock serializes concurrent calls.
      await client.query(`BEGIN; SELECT pg_advisory_xact_lock(hashtext('opm app role'))`);
      await ensureRole();
      await grant();
      await assertGranted();
      await client.query('COMMIT');
    } finally {
      await client.end();
    }
  });
}

const ITERATIONS = 4_096;
/** SASLprep, which PostgreSQL applies to passwords first, does not change these characters. */
const PRINTABLE_ASCII = /^[\x20-\x7e]+$/;

/**
 * Returns the SCRAM-SHA-256 verifier that PostgreSQL stores for a password (RFC 5803,
 * https://www.postgresql.org/docs/current/catalog-pg-authid.html). Computed here, so that the password is not in
 * PostgreSQL's logs.
 * @throws StoreError if the password contains characters other than printable ASCII
 */
function toScramVerifier(password: string): string {
  if (!PRINTABLE_ASCII.test(password))
    throw new StoreError('the password must contain only printable ASCII characters');
  const salt = randomBytes(16);
  const salted = pbkdf2Sync(password, salt, ITERATIONS, 32, 'sha256');
  const keyOf = (label: string) => createHmac('sha256', salted).update(label).digest();
  const storedKey = hash('sha256', keyOf('Client Key'), 'base64');
  const serverKey = keyOf('Server Key').toString('base64');
  return `SCRAM-SHA-256$${ITERATIONS}:${salt.toString('base64')}$${storedKey}:${serverKey}`;
}
