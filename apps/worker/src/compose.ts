import { createEntryWorker, startMaintenance, toQueueConfig } from '@opm/queue';
import { createSparseWarning, type ProcessContext } from '@opm/runtime';
import { createStore, type Store } from '@opm/store';
import type { WorkerConfig } from './config.js';
import { createMeasures } from './measures.js';
import { MAX_ALONE_IN_FLIGHT } from './persist-alone.js';
import { createPersistChunk } from './persist-chunk.js';
import { createStoreGate } from './store-gate.js';
import { createUpserts } from './upsert-entries.js';

const HOUR_MS = 60 * 60 * 1_000;
const DAY_MS = 24 * HOUR_MS;
const STORE_OPTIONS = {
  connectTimeoutMs: 5_000,
  statementTimeoutMs: 15_000,
  answerTimeoutMs: 15_500,
  applicationName: 'opm-worker',
};

/** The worker, put together by hand: who gets what stands here and nowhere else. */
export async function compose(context: ProcessContext<WorkerConfig>): Promise<void> {
  const { config, logger, metrics, health, signal, onClose } = context;

  const store = createStore({
    databaseUrl: config.DATABASE_URL,
    poolSize: 2 * config.STATEMENTS_IN_FLIGHT + 2, // short and long backlogs; a probe, maintenance
    lockTimeoutMs: 2_000,
    ...STORE_OPTIONS,
  });
  onClose('store', store.close);
  const storeOfSuspects = createStore({
    databaseUrl: config.DATABASE_URL,
    poolSize: MAX_ALONE_IN_FLIGHT,
    lockTimeoutMs: 100, // longer than our own statements hold a row
    ...STORE_OPTIONS,
  });
  onClose('store of suspects', storeOfSuspects.close);
  health.postgres = store.ping;

  const queue = {
    ...toQueueConfig(config),
    signal,
    onError: createSparseWarning(logger, 'queue connection'),
  };
  const warnRetry = createSparseWarning(logger, 'jobs failed for a reason that says nothing; they are tried again');
  const warnNoChunk = createSparseWarning(logger, 'job data became a dead letter: see `opm dead-letters count`');
  const worker = await createEntryWorker({
    ...queue,
    concurrency: config.WORKER_CONCURRENCY,
    lockMs: config.JOB_LOCK_MS,
    process: (chunk, context) => persistChunk(chunk, context),
    async bury(data, error, { jobId }) {
      await gate.run(() => store.deadLetters.add([{ payload: data, error: error.message }]));
      measures.onNoChunk();
      warnNoChunk(error);
      logger.debug({ jobId }, 'job data is a dead letter');
    },
    onPostponed: (reason) => measures.onRetry(reason),
    onRetry(error, { jobId, attempt }) {
      measures.onRetry('error');
      warnRetry(error);
      logger.debug({ jobId, attempt }, 'job will be tried again');
    },
  });
  const measures = createMeasures(metrics, worker);
  const gate = createStoreGate({
    ping: store.ping,
    tryWrite: store.customers.tryWrite,
    worker,
    logger,
    signal,
    onPaused: measures.onPaused,
  });
  const upsertsOf = ({ customers }: Store) =>
    createUpserts({ customers, onStatement: measures.onStatement, onConflict: () => measures.onRetry('conflict') });
  const persistChunk = createPersistChunk({
    gate,
    upsert: upsertsOf(store).upsert,
    upsertEach: upsertsOf(storeOfSuspects).upsertEach,
    addDeadLetters: store.deadLetters.add,
    settle: worker.settle,
    maxRows: config.STATEMENT_MAX_ROWS,
    maxInFlight: config.STATEMENTS_IN_FLIGHT,
    maxAttempts: config.JOB_MAX_ATTEMPTS,
    onPersisted: measures.onPersisted,
    onDeadLetter: measures.onRefused,
    logger,
  });
  onClose('worker', worker.close);
  health.queue = worker.check;

  worker.start();
  logger.info(
    { queue: config.REDIS_URL ? 'redis' : 'postgres', concurrency: config.WORKER_CONCURRENCY },
    'taking jobs',
  );

  // Nobody waits for it: jobs can be taken while the master of its own queue is away.
  const maintenance = startMaintenance({
    ...queue,
    tasks: {
      'purge-tombstones': {
        everyMs: HOUR_MS,
        run: () => store.customers.purgeTombstones(new Date(Date.now() - config.TOMBSTONE_RETENTION_DAYS * DAY_MS)),
      },
    },
    onDone: (task, result) => logger[result ? 'info' : 'debug']({ task, result }, 'maintenance done'),
    onFailed: (task, error) => logger.warn({ task, err: error }, 'maintenance failed; it is due again'),
  }).catch((error) => {
    if (!signal.aborted) throw error;
  });
  onClose('maintenance', async () => (await maintenance)?.close());
}
