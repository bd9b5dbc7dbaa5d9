import { expect, test } from '@jest/globals';
import { foldEntries } from '@opm/core';
import { createEntryQueue, createEntryWorker } from '@opm/queue';
import { createStore } from '@opm/store';
import { createBackend, query, waitFor } from '@opm/testkit';

/** Triggers that record the synchronous_commit setting of each write. */
const NOTE_SETTINGS = `
  CREATE SCHEMA seen;
  CREATE TABLE seen.settings (relation text, setting text, UNIQUE (relation, setting));
  CREATE FUNCTION seen.note() RETURNS trigger LANGUAGE plpgsql AS $$
  BEGIN
    INSERT INTO seen.settings VALUES (TG_ARGV[0], current_setting('synchronous_commit')) ON CONFLICT DO NOTHING;
    RETURN NULL;
  END $$;
  CREATE TRIGGER note AFTER INSERT ON customers EXECUTE FUNCTION seen.note('customers');
  CREATE TRIGGER note AFTER INSERT ON bullmq.job EXECUTE FUNCTION seen.note('enqueue');
  CREATE TRIGGER note_done AFTER DELETE ON bullmq.job EXECUTE FUNCTION seen.note('done');
  CREATE TRIGGER note AFTER INSERT ON admission.claims EXECUTE FUNCTION seen.note('admit');`;

test.each([
  ['off', 'on'],
  ['local', 'on'],
  ['remote_write', 'on'],
  ['on', 'on'],
  ['remote_apply', 'remote_apply'],
])('a role whose synchronous_commit is %s writes rows and jobs with %s', async (setting, used) => {
  const { databaseUrl, prefix, drop } = await createBackend(undefined);
  const database = new URL(databaseUrl).pathname.slice(1);
  await query(databaseUrl, `ALTER ROLE CURRENT_USER IN DATABASE "${database}" SET synchronous_commit TO ${setting}`);
  await query(databaseUrl, NOTE_SETTINGS);

  const options = { databaseUrl, prefix, shards: 1, signal: new AbortController().signal, onError: () => {} };
  const store = createStore({ databaseUrl, applicationName: 'test' });
  const queue = await createEntryQueue(options);
  const worker = await createEntryWorker({
    ...options,
    concurrency: 1,
    lockMs: 20_000,
    async process({ entries }) {
      const rows = [...foldEntries(entries)].map(([customerId, state]) => ({ projectId: 1, customerId, state }));
      await store.customers.upsert(rows);
    },
    deadLetterInvalid: async () => {},
    onPostponed: () => {},
    onRetry: () => {},
  });
  worker.start();
  const { admitted } = await queue.admit(0, [{ projectId: 1, customerId: 'jane' }]);
  const entries = [{ projectId: 1, customerId: 'jane', version: admitted[0]?.version ?? 0, fields: { phone: '+1' } }];
  await queue.enqueue(0, { entries });

  const read = () => query(databaseUrl, 'SELECT relation, setting FROM seen.settings ORDER BY relation');
  await waitFor(async () => (await read()).length >= 4, { description: 'the job to be done' });
  expect(await read()).toEqual([
    { relation: 'admit', setting: 'off' }, // The following enqueue flushes it.
    { relation: 'customers', setting: used },
    { relation: 'done', setting: used },
    { relation: 'enqueue', setting: used },
  ]);
  await worker.close();
  await queue.close();
  await store.close();
  await drop();
});
