import { expect, test } from '@jest/globals';
import { BACKENDS, type Backend, query } from '@opm/testkit';
import type { AdmitRequest } from '../src/admission.js';
import type { KeyedPart, PartRecord } from '../src/idempotency.js';
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
  WHERE schemaname = 'admission' AND relname IN (
    'claims', 'backlogs', 'pending_erasures', 'idempotency_records', 'idempotency_record_bytes')`;

const entries = (name: string, count: number) =>
  Array.from({ length: count }, (_, i) => ({ projectId: 1 + (i % PROJECTS), customerId: `${name} ${i}` }));

/** A part per entry. One in 16 counts for its project, as in use. */
const toParts = (name: string, given: AdmitRequest[]): KeyedPart[] =>
  given.map(({ projectId }, first) => {
    const id = `${first % 16 ? 'x' : 'A'}${name}${first}`.padEnd(16, '-');
    return { id, fingerprint: 'bodyBody', projectId, first, size: 1 };
  });

const createPostgres = BACKENDS.find(([name]) => name === 'PostgreSQL')?.[1];

async function createBackend(): Promise<Backend> {
  const backend = await createPostgres?.();
  if (!backend) throw new Error('there must be a queue on PostgreSQL');
  return backend;
}

const options = { signal: new AbortController().signal, onError: () => {} };

test('each function that handles a chunk uses the plans that it keeps, whatever the size of the chunk', async () => {
  const backend = await createBackend();
  // PostgreSQL does not count the plans of the statements in a function.
  const functions = await query<{ name: string }>(
    backend.databaseUrl,
    `SELECT DISTINCT proname AS name FROM pg_proc
     WHERE pronamespace = 'admission'::regnamespace AND 'plan_cache_mode=force_generic_plan' = ANY (proconfig)`,
  );
  const expected =
    'add_to_backlog admit_again admit_entries admit_keyed admit_parts close_parts read_records remember settle';
  expect(functions.map(({ name }) => name).sort()).toEqual(expected.split(' '));
  await backend.drop();
});

test('admitting, admitting again and settling a chunk read only its own rows, whatever the backlog, also with plans from an empty queue', async () => {
  const backend = await createBackend();
  /** A session reports what it has read when it ends. */
  const during = async (run: (queue: QueueBackend) => Promise<void>) => {
    const queue = await connectQueueBackend({ ...backend, shards: 1 }, 'worker', options);
    await run(queue).finally(() => queue.close());
    return (await query<{ inOrder: number; byIndex: number }>(backend.databaseUrl, READ))[0];
  };
  const pass = async ({ admission, idempotency }: QueueBackend, name: string) => {
    const { admitted } = await admission.admit(0, entries(name, CHUNK));
    await admission.settle(0, admitted);

    const keyed = entries(`keyed ${name}`, CHUNK);
    const parts = toParts(name, keyed);
    const [first] = (await admission.admit(0, keyed, parts)).admitted;
    const records = await idempotency.read(
      0,
      parts.map(({ id }) => id),
    );
    const open = parts.map((part, i) => ({ ...part, record: records[i] as PartRecord }));
    const again = await admission.admitAgain(0, keyed, open);
    await idempotency.close(
      0,
      open.map(({ id, record }) => ({ id, version: record.version, state: '=1:1' })),
    );
    await idempotency.remember(
      0,
      parts.map((part) => ({ ...part, id: `${part.id.slice(0, -1)}r` })),
    );
    await idempotency.readBytes(0, first?.projectId ?? 0);
    await admission.settle(0, again ?? []);
  };

  const before = await during(async () => {});
  const after = await during(async (queue) => {
    // PostgreSQL makes a new plan for each of the first five calls.
    for (let i = 0; i < 10; i++) await pass(queue, `p${i}-`);
    const waiting = entries('waiting', WAITING);
    await queue.admission.admit(0, waiting, toParts('waiting', waiting));
    for (let i = 0; i < CHUNKS; i++) await pass(queue, `c${i}-`);
  });
  expect(after?.inOrder).toBe(before?.inOrder);
  const handled = WAITING + (10 + CHUNKS) * 2 * CHUNK;
  expect(Number(after?.byIndex) - Number(before?.byIndex)).toBeLessThan(5 * handled);
  await backend.drop();
});
