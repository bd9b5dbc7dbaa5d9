import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { startEmbeddedPostgres } from '@opm/embedded';
import { createStore } from '@opm/store';
import { runOpm } from '@opm/testkit';
import pg from 'pg';

test('if PostgreSQL has no connections left, every call fails as an outage, and works again afterwards', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'opm-connections-'));
  const postgresFlags = ['fsync=off', 'max_connections=12'];
  const postgres = await startEmbeddedPostgres({ dataDir: join(directory, 'postgres'), postgresFlags });
  expect(await runOpm(['migrate'], { DATABASE_URL: postgres.url })).toMatchObject({ code: 0 });
  const held: pg.Client[] = [];
  const takeOne = async () => {
    const client = new pg.Client({ connectionString: postgres.url });
    await client.connect();
    held.push(client);
  };
  await expect(
    (async () => {
      for (;;) await takeOne();
    })(),
  ).rejects.toMatchObject({ code: '53300' });

  const store = createStore({ databaseUrl: postgres.url, applicationName: 'test' });
  const refused = { kind: 'outage', sqlState: '53300', message: 'sorry, too many clients already' };
  await expect(store.ping()).rejects.toMatchObject(refused);
  await expect(store.customers.findExisting([])).rejects.toMatchObject(refused);
  expect(await runOpm(['projects', 'list'], { DATABASE_URL: postgres.url })).toMatchObject({
    code: 4,
    stderr: expect.stringContaining('too many clients'),
  });

  await Promise.all(held.map((client) => client.end()));
  await store.ping();
  await store.close();
  await postgres.stop();
  await rm(directory, { recursive: true });
});
