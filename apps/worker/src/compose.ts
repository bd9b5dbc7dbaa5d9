import { createEntryWorker, toQueueConfig } from '@opm/queue';
import type { ProcessContext } from '@opm/runtime';
import { createStore } from '@opm/store';
import type { WorkerConfig } from './config.js';
import { createPersistChunk } from './persist-chunk.js';

/** The worker, put together by hand: who gets what stands here and nowhere else. */
export async function compose(context: ProcessContext<WorkerConfig>): Promise<void> {
  const { config, logger, metrics, health, signal, onClose } = context;

  const store = createStore({
    databaseUrl: config.DATABASE_URL,
    poolSize: config.STATEMENTS_IN_FLIGHT + 1,
    connectTimeoutMs: 5_000,
    statementTimeoutMs: 15_000, // half of a job's lock, so that a slow statement ends before the job changes hands
    applicationName: 'opm-worker',
  });
  onClose('store', store.close);
  health.postgres = store.ping;

  const retries = metrics.counter('opm_job_retries_total', 'Jobs that are tried again');
  const deadLettered = metrics.counter('opm_dead_letters_total', 'Entries that PostgreSQL refused', ['sqlState']);
  const worker = await createEntryWorker({
    ...toQueueConfig(config),
    concurrency: config.WORKER_CONCURRENCY,
    process: (chunk, context) => persistChunk(chunk, context),
    onRetry: (error, { jobId, attempt }) => {
      retries.inc();
      logger.debug({ err: error, jobId, attempt }, 'job will be tried again');
    },
    bury: async (data, error, { jobId }) => {
      await store.deadLetters.add([{ payload: data, error: error.message }]);
      deadLettered.inc({ sqlState: 'none' });
      logger.error({ err: error, jobId }, 'job data is a dead letter');
    },
    signal,
    onError: (error) => logger.warn({ err: error }, 'queue connection'),
  });
  const persistChunk = createPersistChunk({
    upsert: store.customers.upsert,
    addDeadLetters: store.deadLetters.add,
    settle: worker.settle,
    maxChunks: config.STATEMENT_MAX_CHUNKS,
    maxInFlight: config.STATEMENTS_IN_FLIGHT,
    persisted: metrics.counter('opm_entries_persisted_total', 'Entries whose effect is in PostgreSQL'),
    statementRows: metrics.histogram('opm_statement_rows', 'Rows per upsert', [1, 10, 50, 100, 500, 1_000, 5_000]),
    deadLettered,
    logger,
  });
  onClose('worker', worker.close);
  health.queue = worker.check;

  worker.start();
  logger.info(
    { queue: config.REDIS_URL ? 'redis' : 'postgres', concurrency: config.WORKER_CONCURRENCY },
    'taking jobs',
  );
}
