import { expect, test } from '@jest/globals';
import { BACKENDS, query } from '@opm/testkit';
import { connectQueueBackend } from '../src/queue-backend.js';
import type { QueueBackend } from '../src/queue-store.js';

const WAITING = 3_000;
const PROJECTS = 600;
const CHUNK = 40;
const CHUNKS = 5;

/** Rows read from the tables. */
const READ = `
  SELECT coalesce(sum(seq_tup_read), 0)::int AS "inOrder", coalesce(sum(idx_tup_fetch), 0)::int AS "byIndex"
  FROM pg_stat_user_tables
  WHERE schemaname = 'admission' AND relname IN ('claims', 'backlogs', 'pending_erasures')`;

const entries = (name: string, count: number) =>
  Array.from({ length: count }, (_, i) => ({ projectId: 1 + (i % PROJECTS), customerId: `${name} ${i}` }));

const createPostgres = BACKENDS.find(([name]) => name === 'PostgreSQL')?.[1];

test('admitting and settling a chunk read only its own rows, whatever the backlog, also with plans from an empty queue', async () => {
  const backend = await createPostgres?.();
  if (!backend) throw new Error('there must be a queue on PostgreSQL');
  const options = { signal: new AbortController().signal, onError: () => {} };
  /** A session reports what it has read when it ends. */
  const during = async (run: (queue: QueueBackend) => Promise<void>) => {
    const queue = await connectQueueBackend({ ...backend, shards: 1 }, 'worker', options);
    await run(queue).finally(() => queue.close());
    return (await query<{ inOrder: number; byIndex: number }>(backend.databaseUrl, READ))[0];
  };
  const pass = async ({ admission }: QueueBackend, name: string) => {
    const { admitted } = await admission.admit(0, entries(name, CHUNK));
    await admission.settle(0, admitted);
  };

  const before = await during(async () => {});
  const after = await during(async (queue) => {
    // PostgreSQL makes a new plan for each of the first five calls.
    for (let i = 0; i < 10; i++) await pass(queue, `planned ${i}`);
    await queue.admission.admit(0, entries('waiting', WAITING));
    for (let i = 0; i < CHUNKS; i++) await pass(queue, `chunk ${i}`);
  });
  expect(after?.inOrder).toBe(before?.inOrder);
  const handled = WAITING + (10 + CHUNKS) * CHUNK;
  expect(Number(after?.byIndex) - Number(before?.byIndex)).toBeLessThan(5 * handled);
  await backend.drop();
});
