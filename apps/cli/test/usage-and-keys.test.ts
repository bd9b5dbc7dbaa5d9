import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { toUsageAnswer } from '@opm/contract';
import { createStore, type Store } from '@opm/store';
import { type Backend, createBackend, query, runOpm } from '@opm/testkit';

let backend: Backend;
let store: Store;
let projectId: number;

beforeAll(async () => {
  backend = await createBackend(undefined);
  store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  ({ projectId } = await store.projects.create('acme'));
});
afterAll(async () => {
  await store.close();
  await backend.drop();
});

const HEADER = 'day,accepted,created,updated,erased,invalid,limited,unavailable,notStored';

test('opm projects usage prints what GET /usage answers, as a table, JSON or CSV', async () => {
  const columns = 'created, updated, erased, refused_invalid, refused_limited, refused_unavailable, dead_letters';
  await query(
    backend.databaseUrl,
    `INSERT INTO project_days (day, project_id, ${columns}) VALUES (current_date - 7, $1, 1, 2, 3, 4, 5, 6, 7)`,
    [projectId],
  );
  const run = async (...args: string[]) => runOpm(['projects', 'usage', 'acme', ...args], backend.env);
  const toDay = async (ago: number) =>
    new Date((await store.now()).getTime() - ago * 86_400_000).toISOString().slice(0, 10);
  const range = { from: await toDay(8), to: await toDay(7) };
  const { days } = toUsageAnswer(range, await store.activity.usage(projectId));
  expect(days[1]).toMatchObject({ day: range.to, accepted: 3, notStored: 7 });

  const args = ['--from', range.from, '--to', range.to];
  const [json, csv, table, all] = await Promise.all([
    run(...args, '--json'),
    run(...args, '--csv'),
    run(...args),
    run(),
  ]);
  expect([json.code, JSON.parse(json.stdout)]).toEqual([0, days]);
  // Days and numbers only: nothing that a spreadsheet would run.
  expect(csv.stdout).toBe(`${HEADER}\n${range.from},0,0,0,0,0,0,0,0\n${range.to},3,1,2,3,4,5,6,7\n`);
  expect(table.stdout).toMatch(
    new RegExp(`^${HEADER.replaceAll(',', ' +')}\n${range.from} .*\n${range.to} +3 +1 .* 7\n$`),
  );
  expect(all.stdout.trim().split('\n')).toHaveLength(31);
});

test.each([
  [['acme', '--from', 'soon'], 2, '--from must be a day such as 2026-11-30'],
  [['acme', '--from', '2026-11-02', '--to', '2026-11-01'], 2, '--to must not be before --from'],
  [['acme', '--from', '2020-01-01'], 2, '--from must be less than 400 days before --to'],
  [['acme', '--csv', '--json'], 2, "option '--csv' cannot be used with option '--json'"],
  [['nobody'], 3, 'there is no project "nobody"'],
])('opm projects usage %j exits with %i: %s', async (args, code, message) => {
  const failed = await runOpm(['projects', 'usage', ...args], backend.env);
  expect([failed.code, failed.stdout]).toEqual([code, '']);
  expect(failed.stderr).toContain(message);
});

test('opm keys create and rotate make keys with rules, and say what they are', async () => {
  const keys = async (...args: string[]) => (await runOpm(['keys', ...args], backend.env)).stdout;
  const rules = ['--scope', 'read', '--scope', 'write', '--address', '203.0.113.0/24', '--address', '2001:DB8::1'];
  const created = { scopes: ['write', 'read'], addresses: ['203.0.113.0/24', '2001:db8::1'] };
  const first = JSON.parse(await keys('create', 'acme', '--label', 'crm', ...rules, '--json'));
  expect(first).toEqual({ projectId, apiKey: expect.stringMatching(/^opm_\w{36}$/), ...created });
  const refused = await runOpm(['keys', 'rotate', 'acme'], backend.env);
  expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining('keys differ in scopes or addresses')]);
  expect(JSON.parse(await keys('rotate', 'acme', ...rules, '--json'))).toMatchObject(created);
  expect(JSON.parse(await keys('rotate', 'acme', '--json'))).toMatchObject(created);
  expect(await keys('rotate', 'acme', '--address', 'any', '--scope', 'erase')).toMatch(
    /: opm_\w+\nIt may erase, from any address\.\nThe old keys expire at /,
  );
  expect(await keys('create', 'acme')).toMatch(/: opm_\w+\nIt may write, read, erase, from any address\.\n$/);
  const stored = (await store.apiKeys.list(projectId)).map(({ label, scopes, addresses, expiresAt }) => [
    ...[label, scopes.join(), addresses.join(), expiresAt !== null],
  ]);
  expect(stored).toEqual([
    [null, 'write,read,erase', '', true],
    ['crm', 'write,read', '203.0.113.0/24,2001:db8::1', true],
    [null, 'write,read', '203.0.113.0/24,2001:db8::1', true],
    [null, 'write,read', '203.0.113.0/24,2001:db8::1', true],
    [null, 'erase', '', false],
    [null, 'write,read,erase', '', false],
  ]);
  const listed = await keys('list', 'acme');
  expect(listed).toMatch(/ crm +write, read +203\.0\.113\.0\/24, 2001:db8::1 +active /);
  expect(listed).toMatch(/ erase +any +active /);
});

test.each([
  ['an unknown scope', ['--scope', 'all'], 'It must be one of write, read, erase.'],
  ['no address', ['--address', '203.0.113.0/33'], 'It must be an IP address or a block'],
  ['any and another', ['--address', 'any', '--address', '::1'], 'specify either --address any or addresses'],
  [
    '51 addresses',
    Array.from({ length: 51 }, (__, i) => ['--address', `10.0.0.${i}`]).flat(),
    'There may be 50 at most.',
  ],
])('opm keys create and rotate refuse %s, and make no key', async (_, rules, message) => {
  const before = await store.apiKeys.list(projectId);
  for (const command of ['create', 'rotate']) {
    const { code, stderr } = await runOpm(['keys', command, 'acme', ...rules], backend.env);
    expect([code, stderr]).toEqual([2, expect.stringContaining(message)]);
  }
  expect(await store.apiKeys.list(projectId)).toEqual(before);
});
