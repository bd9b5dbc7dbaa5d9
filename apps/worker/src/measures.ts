import type { Backlog, ChunkEntry, EntryWorker } from '@opm/queue';
import type { Metrics } from '@opm/runtime';
import { type Refused, reasonOf } from './refused.js';

/** What the worker counts, in terms of what happens to it. */
export function createMeasures(metrics: Metrics, worker: Pick<EntryWorker, 'backlog' | 'clockSkew'>) {
  const persisted = metrics.counter('opm_entries_persisted_total', 'Entries whose effect is in PostgreSQL');
  const latency = metrics.hotHistogram(
    'opm_entry_persist_seconds',
    'Time from the version of an entry, its acknowledgement, to its row',
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 60, 300, 3_600],
  );
  const rows = metrics.histogram('opm_statement_rows', 'Rows per upsert', [1, 10, 50, 100, 250, 500, 1_000, 2_500]);
  const seconds = metrics.histogram(
    'opm_statement_seconds',
    'Time per upsert',
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15],
  );
  const deadLetters = metrics.counter('opm_dead_letters_total', 'Entries and jobs that became dead letters', [
    'reason',
  ]);
  for (const reason of ['no-chunk', 'unknown']) deadLetters.inc({ reason }, 0);
  const retries = metrics.counter('opm_retries_total', 'Statements and jobs that are tried again', ['reason']);
  // Series that are there from the start, so that the first increase is one.
  for (const reason of ['conflict', 'outage', 'blocked', 'error']) retries.inc({ reason }, 0);
  // The gauges of one scrape are read together, so one look at the queues serves them all.
  let reading: Promise<Backlog> | undefined;
  const readOnce = () => {
    reading ??= worker.backlog().finally(() => {
      reading = undefined;
    });
    return reading;
  };
  metrics.gauge('opm_worker_paused', '1 while PostgreSQL takes no statements of this worker', [], async () => [
    [{}, isPaused ? 1 : 0],
  ]);
  metrics.gauge(
    'opm_clock_skew_seconds',
    'How far the queue store’s clock is ahead of this process’s',
    [],
    async () => [[{}, (await worker.clockSkew()) / 1_000]],
  );
  metrics.gauge('opm_queue_jobs', 'Jobs in the queues of all shards', ['state'], async () =>
    Object.entries((await readOnce()).jobs).map(([state, jobs]) => [{ state }, jobs]),
  );
  metrics.gauge('opm_oldest_waiting_seconds', 'Age of the oldest job that is not done', [], async () => [
    [{}, (await readOnce()).oldestMs / 1_000],
  ]);

  let isPaused = false;
  return {
    onPaused: (paused: boolean): void => {
      isPaused = paused;
    },
    onPersisted(entries: ChunkEntry[]): void {
      const now = Date.now();
      persisted.inc(entries.length);
      // Versions are microseconds of the queue store's clock, which may be a little ahead of ours.
      for (const { version } of entries) latency.observe(Math.max(now - version / 1_000, 0) / 1_000);
    },
    onStatement(statement: { rows: number; seconds: number }): void {
      rows.observe(statement.rows);
      seconds.observe(statement.seconds);
    },
    onRefused: ({ error }: Refused): void => deadLetters.inc({ reason: reasonOf(error) }),
    onNoChunk: (): void => deadLetters.inc({ reason: 'no-chunk' }),
    onRetry: (reason: 'conflict' | 'outage' | 'blocked' | 'error'): void => retries.inc({ reason }),
  };
}
