import type { Backlog, ChunkEntry, EntryWorker } from '@opm/queue';
import type { Metrics } from '@opm/runtime';
import { type ActivityReporter, OTHER_PROJECTS } from '@opm/store';
import { type FailedEntry, reasonOf } from './isolate.js';

/** Creates the worker's metrics. Returns one callback per event. */
export function createWorkerMetrics(
  metrics: Metrics,
  worker: Pick<EntryWorker, 'backlog' | 'clockSkew'>,
  activity: Pick<ActivityReporter, 'of' | 'onLatency'>,
) {
  const persisted = metrics.counter('opm_entries_persisted_total', 'Entries persisted in PostgreSQL');
  const latency = metrics.hotHistogram(
    'opm_entry_persist_seconds',
    'Time from the admission of an entry to its row in PostgreSQL',
    [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 60, 300, 3_600],
  );
  const rows = metrics.histogram(
    'opm_statement_rows',
    'Rows per upsert statement',
    [1, 10, 50, 100, 250, 500, 1_000, 2_500],
  );
  const seconds = metrics.histogram(
    'opm_statement_seconds',
    'Time per upsert statement',
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5, 15],
  );
  const deadLetters = metrics.counter('opm_dead_letters_total', 'Entries and jobs that became dead letters', [
    'reason',
  ]);
  for (const reason of ['no-chunk', 'unknown']) deadLetters.inc({ reason }, 0);
  const retries = metrics.counter('opm_retries_total', 'Retried statements and jobs', ['reason']);
  // Prometheus sees an increase only if the series existed before it.
  for (const reason of ['conflict', 'outage', 'blocked', 'error']) retries.inc({ reason }, 0);
  // Prometheus reads all gauges in one scrape, so they share one read of the queues.
  let pending: Promise<Backlog> | undefined;
  const readOnce = () => {
    pending ??= worker.backlog().finally(() => {
      pending = undefined;
    });
    return pending;
  };
  metrics.gauge(
    'opm_worker_paused',
    '1 while the worker is paused because PostgreSQL does not accept statements',
    [],
    async () => [[{}, isPaused ? 1 : 0]],
  );
  metrics.gauge(
    'opm_clock_skew_seconds',
    'How far the clock of the queue store is ahead of the clock of this process',
    [],
    async () => [[{}, (await worker.clockSkew()) / 1_000]],
  );
  metrics.gauge('opm_queue_jobs', 'Jobs in the queues of all shards, by state', ['state'], async () =>
    Object.entries((await readOnce()).jobs).map(([state, jobs]) => [{ state }, jobs]),
  );
  metrics.gauge('opm_oldest_waiting_seconds', 'Age of the oldest unfinished job', [], async () => [
    [{}, (await readOnce()).oldestMs / 1_000],
  ]);

  let isPaused = false;
  return {
    isPaused: (): boolean => isPaused,
    onPaused: (paused: boolean): void => {
      isPaused = paused;
    },
    onPersisted(entries: ChunkEntry[]): void {
      const now = Date.now();
      persisted.inc(entries.length);
      // A version is microseconds of the queue store's clock, which may be slightly ahead of this process's clock.
      for (const { projectId, version } of entries) {
        const ms = Math.max(now - version / 1_000, 0);
        latency.observe(ms / 1_000);
        activity.of(projectId).persisted++;
        activity.onLatency(projectId, ms);
      }
    },
    onStatement(statement: { rows: number; seconds: number }): void {
      rows.observe(statement.rows);
      seconds.observe(statement.seconds);
    },
    onDeadLetter({ entry, error }: FailedEntry): void {
      deadLetters.inc({ reason: reasonOf(error) });
      activity.of(entry.projectId).deadLetters++;
    },
    onInvalidJob(): void {
      deadLetters.inc({ reason: 'no-chunk' });
      activity.of(OTHER_PROJECTS).deadLetters++;
    },
    onRetry: (reason: 'conflict' | 'outage' | 'blocked' | 'error'): void => retries.inc({ reason }),
  };
}
