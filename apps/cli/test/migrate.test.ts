import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createDatabase, runOpm, type TestDatabase } from '@opm/testkit';

let database: TestDatabase;
const opm = (...args: string[]) => runOpm(args, { DATABASE_URL: database.url, REDIS_URL: '' });

beforeAll(async () => {
  database = await createDatabase({ adminUrl: process.env.OPM_TEST_ADMIN_URL as string });
});
afterAll(() => database.drop());

test('without our tables a command says how to make them, and then they are there', async () => {
  expect(await opm('projects', 'list')).toEqual({
    code: 1,
    stdout: '',
    stderr: 'opm: relation "public.projects" does not exist: run `opm migrate`\n',
  });
  expect(await opm('migrate', '--json')).toMatchObject({ code: 0, stdout: '{"upToDate":true}\n' });
  expect(await opm('projects', 'list', '--json')).toMatchObject({ code: 0, stdout: '[]\n' });
});
