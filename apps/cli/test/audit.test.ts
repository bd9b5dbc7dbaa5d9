import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { hostname, tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { findFreePort } from '@opm/embedded';
import { createStore, type Store } from '@opm/store';
import { type Backend, createBackend, OPM, query, runOpm, startProcess, waitFor } from '@opm/testkit';

const CUSTOMER_ID = 'käufer-4711';

/** Every command that changes something, and its row. FILE is a file with customers. */
const CHANGES: [command: string, target: string | null, details: object | null][] = [
  ['projects create fresh', 'fresh', null],
  ['projects rename fresh renamed', 'fresh', { newName: 'renamed' }],
  ['projects pause acme', 'acme', null],
  ['projects resume acme', 'acme', null],
  ['projects limits acme --rate 5 --burst 10', 'acme', { rate: 5, burst: 10 }],
  ['projects limits acme --none', 'acme', { rate: null, burst: null }],
  ['keys rotate acme --grace 1h', 'acme', { graceSeconds: 3_600 }],
  [
    'keys rotate acme --grace 1h --scope read --address 203.0.113.7',
    'acme',
    { graceSeconds: 3_600, scopes: 'read', addresses: '203.0.113.7' },
  ],
  ['keys create acme --scope write', 'acme', { scopes: 'write', addresses: 'any' }],
  ['keys label acme 1 shop', 'acme/1', null],
  ['keys revoke acme --key 1', 'acme/1', null],
  ['keys revoke acme', 'acme', null],
  [`customers erase acme ${CUSTOMER_ID} --force`, 'acme/kä…', null],
  ['customers import FILE --project acme --force', 'acme', { bytes: expect.any(Number) }],
  ['dead-letters replay --force --error Jane', null, { byError: true }],
  [
    'dead-letters discard --project acme --id 7 --sql-state 22 --since 2026-01-01T00:00Z',
    'acme',
    { id: '7', sqlState: '22', since: '2026-01-01T00:00:00.000Z' },
  ],
  ['dead-letters discard --all', null, null],
  ['restored', null, { from: null, to: expect.any(String) }],
  ['operators add ada --role viewer', 'ada', { role: 'viewer', mayReveal: false }],
  ['operators role ada admin --reveal', 'ada', { role: 'admin', mayReveal: true }],
  ['operators password ada', 'ada', null],
  ['operators remove ada', 'ada', null],
];

/**
 * Every command that only reads, or has no row of its own: `migrate` makes the table, `burst` is a partner. The rows of
 * `up` have a test of their own.
 */
const READS = [
  ...['up', 'migrate', 'status', 'burst', 'audit', 'operators list', 'projects list', 'projects stats', 'keys list'],
  ...['projects usage'],
  ...['customers get', 'customers export', 'dead-letters list', 'dead-letters show', 'dead-letters count'],
];

let backend: Backend;
let store: Store;
let directory: string;
let file: string;

beforeAll(async () => {
  backend = await createBackend(undefined);
  store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  await store.projects.create('acme');
  directory = await mkdtemp(join(tmpdir(), 'opm-audit-'));
  file = join(directory, 'jane@example.com.csv');
  await writeFile(file, 'customerId,customerPhone\njane,+1\n');
});
afterAll(async () => {
  await store.close();
  await backend.drop();
  await rm(directory, { recursive: true });
});

const opm = (command: string, env = {}) =>
  runOpm(
    command.split(' ').map((word) => word.replace('FILE', file)),
    { ...backend.env, ...env },
  );
const actionOf = (command: string) => command.split(' ').slice(0, 2).join(' ');
const readAll = async () => (await store.audit.list({}, { limit: 1_000 })).reverse();

test('every command is known to change something or not, so a new one cannot be forgotten here', async () => {
  const readCommands = async (...path: string[]) => {
    const { stdout } = await opm([...path, '--help'].join(' '));
    const [, listed = ''] = /^Commands:\n(.*)/ms.exec(stdout) ?? [];
    return [...listed.matchAll(/^ {2}([\w-]+)/gm)].map(([, name]) => name as string).filter((name) => name !== 'help');
  };
  const found = await Promise.all(
    (await readCommands()).map(async (name) => {
      const inner = await readCommands(name);
      return inner.length > 0 ? inner.map((word) => `${name} ${word}`) : [name];
    }),
  );
  const known = [...CHANGES.map(([command]) => actionOf(command)), ...READS];
  expect(
    found
      .flat()
      .filter((name) => name !== 'complete')
      .sort(),
  ).toEqual([...new Set(known)].sort());
});

test('each command that changes something writes one row, without personal data', async () => {
  for (const [command] of CHANGES) expect([command, (await opm(command)).stderr]).toEqual([command, '']);
  const rows = await readAll();
  expect(rows.map(({ auditId: _, at: __, ...row }) => row)).toEqual(
    CHANGES.map(([command, target, details]) => ({
      actor: userInfo().username,
      source: 'cli',
      address: hostname(),
      action: actionOf(command),
      target,
      details,
      outcome: null,
    })),
  );
  expect(JSON.stringify(rows)).not.toMatch(/jane|ufer|opm_|\+1/i);
});

test('a command that is refused, or only counts, writes no row', async () => {
  const before = await readAll();
  for (const command of [
    'projects pause nobody',
    'projects limits acme --rate 5',
    'projects limits acme',
    'keys rotate nobody',
    'keys create nobody',
    'keys create acme --scope all',
    'keys create acme --address 203.0.113.0/33',
    'keys rotate acme --address any --address 203.0.113.7',
    'customers import nowhere.csv --project acme',
    'dead-letters discard --all --dry-run',
    'dead-letters replay --dry-run',
    'operators role nobody admin',
    'operators remove nobody',
    'operators add Ada --role viewer',
    'restored --dry-run',
  ]) {
    await opm(command);
  }
  expect(await readAll()).toEqual(before);
});

test('`opm audit` lists the newest rows first, and filters them by actor and time', async () => {
  await store.audit.record({ actor: 'ada', source: 'console', address: '::1', action: 'login' });
  await query(
    backend.databaseUrl,
    `INSERT INTO audit_log (actor, source, action, at)
    VALUES ('ada', 'console', 'logout', now() - interval '25 hours'), ('a\x1b[2J', 'cli', 'x', now() - interval '2 days')`,
  );
  const list = async (...args: string[]) =>
    JSON.parse((await runOpm(['audit', '--json', ...args], backend.env)).stdout);
  expect(await list('--actor', 'ada')).toEqual([
    {
      auditId: expect.any(String),
      at: expect.any(String),
      actor: 'ada',
      source: 'console',
      address: '::1',
      action: 'login',
      target: null,
      details: null,
      outcome: null,
    },
  ]);
  const actions = async (...args: string[]) => (await list(...args)).map(({ action }: { action: string }) => action);
  expect(await actions('--actor', 'ada', '--since', '26h')).toEqual(['login', 'logout']);
  expect(await actions('--limit', '2')).toEqual(['login', 'operators remove']);
  const { stdout } = await opm('audit --since 3d');
  expect(stdout).toMatch(/^at +actor +source +address +action +target +outcome +details\n/);
  expect(stdout).toMatch(/ projects limits +acme +- +\{"rate":5,"burst":10\}\n/);
  expect(stdout).not.toContain('\x1b');
});

test('a command that fails after its row was written has the outcome in the log', async () => {
  await store.projects.create('taken');
  const entry = { customerId: 'a', version: 1, fields: { email: 'a@example.com' } };
  await store.deadLetters.add([{ projectId: 1, entry, payload: entry, error: 'x', sqlState: '22021' }]);
  await query(
    backend.databaseUrl,
    `CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE SQLSTATE '53100'; END $$;
    CREATE TRIGGER fail BEFORE UPDATE ON dead_letters FOR EACH ROW EXECUTE FUNCTION fail()`,
  );
  await writeFile(join(directory, 'broken.csv'), 'customerId,customerPhone\n1,"2\n');
  const failing: [command: string, code: number, target: string | null, outcome: string][] = [
    ['projects create taken', 1, 'taken', 'not done'],
    ['keys revoke acme --key 999', 3, 'acme/999', 'not done'],
    ['keys label acme 999 shop', 3, 'acme/999', 'not done'],
    [`customers import ${directory}/broken.csv --project acme --force`, 1, 'acme', 'failed'],
    ['dead-letters replay --force', 4, null, 'failed'],
  ];
  for (const [command, code] of failing) expect([command, (await opm(command)).code]).toEqual([command, code]);
  expect((await readAll()).slice(-failing.length)).toMatchObject(
    failing.map(([command, _, target, outcome]) => ({ action: actionOf(command), target, outcome })),
  );
  await query(backend.databaseUrl, 'DROP FUNCTION fail CASCADE; DELETE FROM dead_letters');
});

/** Starts `opm up`, whose demo key is in this test's directory. */
async function startUp() {
  const ports = ['--port', String(await findFreePort()), '--console-port', String(await findFreePort())];
  return startProcess({ file: OPM, args: ['up', ...ports, '--data-dir', directory], env: backend.env, detached: true });
}

test('`opm up` writes a row before it creates the demo project or a key of it', async () => {
  const before = (await readAll()).length;
  for (const [rows, action, details] of [
    [1, 'projects create', null],
    [2, 'keys create', { scopes: 'write, read, erase', addresses: 'any' }],
  ] as const) {
    const stack = await startUp();
    const keys = async () => store.apiKeys.list((await store.projects.find('demo'))?.projectId ?? 0);
    await waitFor(async () => (await keys()).length === rows, { description: 'the key' });
    expect(await stack.stop('SIGINT')).toMatchObject({ code: 0 });
    const added = (await readAll()).slice(before);
    expect(added).toHaveLength(rows);
    expect(added.at(-1)).toMatchObject({ source: 'cli', action, target: 'demo', details, outcome: null });
    await opm('keys revoke demo');
    await query(backend.databaseUrl, `DELETE FROM audit_log WHERE action = 'keys revoke' AND target = 'demo'`);
  }
  await query(backend.databaseUrl, `DELETE FROM projects WHERE name = 'demo'`);
});

describe('if the row cannot be written,', () => {
  beforeAll(async () => {
    await query(backend.databaseUrl, 'ALTER TABLE audit_log RENAME TO elsewhere');
  });
  afterAll(async () => {
    await query(backend.databaseUrl, 'ALTER TABLE elsewhere RENAME TO audit_log');
  });

  test.each(CHANGES)('`opm %s` fails before it changes anything', async (command) => {
    if (command.includes('operators') && !command.includes(' add ')) {
      await store.operators
        .add({ name: 'ada', role: 'viewer', mayReveal: false, password: 'a password of Ada' })
        .catch(() => {});
    }
    const before = await readState();
    const { code, stderr } = await opm(command.replace('fresh renamed', 'renamed fresh'));
    expect([code, stderr]).toEqual([1, expect.stringContaining('relation "public.audit_log" does not exist')]);
    expect(await readState()).toEqual(before);
  });

  test('`opm up` fails before it creates the demo project', async () => {
    const before = await readState();
    const stack = await startUp();
    await waitFor(async () => /is running|opm: stopped/.test(stack.output()), { description: 'the end of the start' });
    expect(await stack.stop('SIGINT')).toEqual({ code: 1, signal: null });
    expect(stack.output()).toContain('relation "public.audit_log" does not exist');
    expect(await readState()).toEqual(before);
  });

  async function readState() {
    const tables = ['projects', 'api_keys', 'operators', 'dead_letters', 'admission.claims'];
    return Promise.all(tables.map((table) => query(backend.databaseUrl, `SELECT * FROM ${table}`)));
  }
});
