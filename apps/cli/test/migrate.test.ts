import { randomUUID } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createDatabase, query, runOpm, type TestDatabase, testPrefix } from '@opm/testkit';

let database: TestDatabase;
let directory: string;
const opm = (...args: string[]) => runOpm(args, { DATABASE_URL: database.url, REDIS_URL: '' });

beforeAll(async () => {
  database = await createDatabase({ adminUrl: process.env.OPM_TEST_ADMIN_URL as string });
  directory = await mkdtemp(join(tmpdir(), 'opm-migrate-'));
});
afterAll(async () => {
  await database.drop();
  await rm(directory, { recursive: true });
});

test('without the tables, a command says to run `opm migrate`, which creates them', async () => {
  expect(await opm('projects', 'list')).toEqual({
    code: 1,
    stdout: '',
    stderr: 'opm: relation "public.projects" does not exist: run `opm migrate`\n',
  });
  expect(await opm('migrate', '--json')).toMatchObject({ code: 0, stdout: '{"upToDate":true}\n' });
  expect(await opm('projects', 'list', '--json')).toMatchObject({ code: 0, stdout: '[]\n' });
});

test('with the tables of an earlier release, a command says to run `opm migrate`, too', async () => {
  await query(database.url, 'ALTER TABLE projects RENAME COLUMN paused_at TO elsewhere');
  const { code, stdout, stderr } = await opm('projects', 'list');
  await query(database.url, 'ALTER TABLE projects RENAME COLUMN elsewhere TO paused_at');
  expect([code, stdout]).toEqual([1, '']);
  expect(stderr).toMatch(/^opm: column .*paused_at.* does not exist: run `opm migrate`\n$/);
});

/** Writes a schema engine for Prisma that runs `source`. */
async function writeEngine(name: string, source: string): Promise<{ PRISMA_SCHEMA_ENGINE_BINARY: string }> {
  const engine = join(directory, name);
  await writeFile(engine, `#!/usr/bin/env node\n${source}`, { mode: 0o700 });
  return { PRISMA_SCHEMA_ENGINE_BINARY: engine };
}

test('if all migrations are applied, Prisma is not started', async () => {
  const engine = await writeEngine('never.mjs', 'process.exit(1);');
  const migrated = await runOpm(['migrate', '--json'], { DATABASE_URL: database.url, REDIS_URL: '', ...engine });
  expect(migrated).toMatchObject({ code: 0, stdout: '{"upToDate":true}\n' });
});

describe('if a migration is missing,', () => {
  let copy: TestDatabase;
  const role = testPrefix();
  /** Occurs in no other part of the URL. */
  const password = randomUUID();
  beforeAll(async () => {
    copy = await createDatabase({ adminUrl: process.env.OPM_TEST_ADMIN_URL as string });
    await query(copy.url, `CREATE ROLE "${role}" SUPERUSER LOGIN PASSWORD '${password}'`);
  });
  afterAll(async () => {
    await copy.drop();
    await query(database.url, `DROP ROLE "${role}"`);
  });
  function migrate(engine: NodeJS.ProcessEnv) {
    const { href } = Object.assign(new URL(copy.url), { username: role, password });
    return runOpm(['migrate', '--json'], { DATABASE_URL: href, REDIS_URL: '', ...engine });
  }

  test('a schema engine that exits without applying it is an error', async () => {
    const { code, stderr } = await migrate(await writeEngine('dies.mjs', 'process.exit(0);'));
    expect([code, stderr]).toEqual([
      1,
      expect.stringMatching(/^\{"error":"failed","message":"prisma migrate deploy (failed|did not apply)/),
    ]);
  });

  test('it is applied, and no process gets the password as an argument', async () => {
    const engineArguments = join(directory, 'arguments');
    const source = `
      import { appendFileSync } from 'node:fs';
      appendFileSync(${JSON.stringify(engineArguments)}, process.argv.join(' '));
      await import(${JSON.stringify(new URL('../../../tools/schema-engine.mjs', import.meta.url))});`;
    expect(await migrate(await writeEngine('records-arguments.mjs', source))).toMatchObject({ code: 0 });
    const text = await readFile(engineArguments, 'utf8');
    expect(text).toContain('"url":"postgres');
    expect(text).not.toContain(password);
  });

  test('a migration that failed earlier is reported', async () => {
    await query(copy.url, 'UPDATE _prisma_migrations SET finished_at = NULL WHERE migration_name LIKE $1', [
      '%_shards',
    ]);
    const { code, stderr } = await migrate({});
    expect([code, stderr]).toEqual([1, expect.stringMatching(/P3009.*_shards/s)]);
  });
});
