import { Client } from 'pg';
import { testPrefix } from './test-prefix.js';

export interface TestDatabase {
  name: string;
  url: string;
  /** Ends the sessions that are still connected. */
  drop(): Promise<void>;
}

interface DatabaseOptions {
  /** A role that may create databases. */
  adminUrl: string;
  template?: string;
}

/** A migrated database of its own for a test file. Throws outside the integration run, whose setup makes the template. */
export function createTestDatabase(): Promise<TestDatabase> {
  return createDatabase({ adminUrl: readEnv('OPM_TEST_ADMIN_URL'), template: readEnv('OPM_TEST_TEMPLATE') });
}

export async function createDatabase({ adminUrl, template = 'template1' }: DatabaseOptions): Promise<TestDatabase> {
  const name = testPrefix();
  const url = new URL(adminUrl);
  url.pathname = name;
  await execute(adminUrl, `CREATE DATABASE "${name}" TEMPLATE "${template}"`);
  return { name, url: url.href, drop: () => execute(adminUrl, `DROP DATABASE IF EXISTS "${name}" WITH (FORCE)`) };
}

async function execute(connectionString: string, statement: string): Promise<void> {
  const client = new Client({ connectionString });
  await client.connect();
  try {
    await client.query(statement);
  } finally {
    await client.end();
  }
}

function readEnv(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run the test through jest.integration.config.mjs.`);
  return value;
}
