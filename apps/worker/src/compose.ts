import { createEntryWorker, startMaintenance, toQueueConfig } from '@opm/queue';
import { createThrottledWarning, type Env, PROCESS_ENV, type ProcessContext, port, wholeNumber } from '@opm/runtime';
import { createActivityReporter, createStore, type Store } from '@opm/store';
import { MAX_ISOLATED_IN_FLIGHT } from './isolate.js';
import { createWorkerMetrics } from './metrics.js';
import { createOutageGate } from './outage-gate.js';
import { createPersistChunk } from './persist-chunk.js';
import { createUpserts } from './upsert-entries.js';

const HOUR_MS = 60 * 60 * 1_000;
const DAY_MS = 24 * HOUR_MS;
const STORE_OPTIONS = {
  connectTimeoutMs: 5_000,
  statementTimeoutMs: 15_000,
  answerTimeoutMs: 15_500,
  applicationName: 'opm-worker',
};

/**
 * Statements in flight, separately for short and for long backlogs. The worker prepares one while PostgreSQL executes
 * the other; more would wait for the same rows.
 */
const STATEMENTS_IN_FLIGHT = 2;

/** Creates every object of the worker and passes each its dependencies. */
export async function compose(context: ProcessContext<WorkerConfig>): Promise<void> {
  const { config, logger, health, signal, onClose } = context;

  const store = createStore({
    databaseUrl: config.DATABASE_URL,
    // Statements of short and of long backlogs, one probe, one maintenance task, one report.
    poolSize: 2 * STATEMENTS_IN_FLIGHT + 3,
    lockTimeoutMs: 1_000, // each locked row costs this wait once: its later entries are isolated
    ...STORE_OPTIONS,
  });
  onClose('store', store.close);
  // Isolated entries have their own pool with a shorter lock timeout.
  const isolationStore = createStore({
    databaseUrl: config.DATABASE_URL,
    poolSize: MAX_ISOLATED_IN_FLIGHT,
    lockTimeoutMs: 100, // longer than the worker's own statements hold a row lock
    ...STORE_OPTIONS,
  });
  onClose('isolation store', isolationStore.close);
  health.postgres = store.ping;

  const queue = {
    ...toQueueConfig(config),
    signal,
    onError: createThrottledWarning(logger, 'queue connection'),
  };
  const warnRetry = createThrottledWarning(logger, 'jobs failed with an unclassified error; retrying');
  const warnInvalidJob = createThrottledWarning(
    logger,
    'invalid job data became a dead letter: see `opm dead-letters count`',
  );
  const worker = await createEntryWorker({
    ...queue,
    concurrency: config.WORKER_CONCURRENCY,
    lockMs: config.JOB_LOCK_MS,
    process: (chunk, context) => persistChunk(chunk, context),
    async deadLetterInvalid(data, error, { jobId }) {
      await gate.run(() => store.deadLetters.add([{ payload: data, error: error.message }]));
      metrics.onInvalidJob();
      warnInvalidJob(error);
      logger.debug({ jobId }, 'invalid job data became a dead letter');
    },
    onPostponed: (reason) => metrics.onRetry(reason),
    onRetry(error, { jobId, attempt }) {
      metrics.onRetry('error');
      warnRetry(error);
      logger.debug({ jobId, attempt }, 'job failed with an unclassified error; retrying');
    },
  });
  const activity = createActivityReporter({
    activity: store.activity,
    name: 'worker',
    readState: () => ({ isPaused: metrics.isPaused() }),
    onReported: context.metrics.projectCounter(),
    onFailed: createThrottledWarning(
      logger,
      'could not report counts per project; keeping them until PostgreSQL answers',
    ),
  });
  onClose('activity', activity.close);
  const metrics = createWorkerMetrics(context.metrics, worker, activity);
  const gate = createOutageGate({
    ping: store.ping,
    async tryWrite() {
      await store.customers.tryWrite();
      await isolationStore.customers.tryWrite(); // may fail alone, for example if PostgreSQL has no connection left
    },
    worker,
    logger,
    signal,
    onPaused: metrics.onPaused,
  });
  const upsertsOf = ({ customers }: Store) =>
    createUpserts({ customers, onStatement: metrics.onStatement, onConflict: () => metrics.onRetry('conflict') });
  const persistChunk = createPersistChunk({
    gate,
    upsert: upsertsOf(store).upsert,
    upsertEach: upsertsOf(isolationStore).upsertEach,
    addDeadLetters: store.deadLetters.add,
    settle: worker.settle,
    maxRows: config.STATEMENT_MAX_ROWS,
    maxInFlight: STATEMENTS_IN_FLIGHT,
    maxAttempts: config.JOB_MAX_ATTEMPTS,
    onPersisted: metrics.onPersisted,
    onDeadLetter: metrics.onDeadLetter,
    logger,
  });
  onClose('worker', worker.close);
  health.queue = worker.check;

  worker.start();
  logger.info(
    { queue: config.REDIS_URL ? 'redis' : 'postgres', concurrency: config.WORKER_CONCURRENCY },
    'taking jobs',
  );

  // Not awaited: the worker takes jobs even if the Redis master of the maintenance queue is down.
  const maintenance = startMaintenance({
    ...queue,
    tasks: {
      'purge-tombstones': {
        everyMs: HOUR_MS,
        run: () => store.customers.purgeTombstones(new Date(Date.now() - config.TOMBSTONE_RETENTION_DAYS * DAY_MS)),
      },
      'purge-dead-letters': { everyMs: HOUR_MS, run: store.deadLetters.purge },
      'roll-up-activity': { everyMs: 10 * 60 * 1_000, run: store.activity.rollUp },
    },
    onFinished: store.mark.noteFinished,
    onDone: (task, result) => logger[result ? 'info' : 'debug']({ task, result }, 'maintenance task done'),
    onFailed: (task, error) =>
      logger.warn({ task, err: error }, 'maintenance task failed; it runs again in its next period'),
  }).catch((error) => {
    if (!signal.aborted) throw error;
  });
  onClose('maintenance', async () => (await maintenance)?.close());
}

export const WORKER_ENV = {
  ...PROCESS_ENV,
  INTERNAL_PORT: port({ default: 9401, desc: 'port of /livez, /readyz and /metrics' }),
  WORKER_CONCURRENCY: wholeNumber({
    min: 1,
    max: 10_000,
    default: 50,
    desc: 'jobs processed at the same time per shard, 1 to 10000',
  }),
  STATEMENT_MAX_ROWS: wholeNumber({
    min: 1,
    max: 50_000,
    default: 1_000,
    desc: 'maximum entries per upsert statement, 1 to 50000; a larger chunk gets its own statement',
  }),
  JOB_LOCK_MS: wholeNumber({
    min: 1_000,
    max: HOUR_MS,
    default: 20_000,
    desc: 'job lock in ms: how long a silent worker keeps a job, 1000 to 3600000',
  }),
  JOB_MAX_ATTEMPTS: wholeNumber({
    min: 1,
    max: 1_000,
    default: 8,
    desc: 'attempts before an entry with an unclassified error becomes a dead letter, 1 to 1000',
  }),
  // Longer than an idempotency key counts, or a repeat could restore an erased customer.
  TOMBSTONE_RETENTION_DAYS: wholeNumber({
    min: 2,
    max: 36_500,
    default: 30,
    desc: 'days to keep the tombstones of erased customers, 2 to 36500',
  }),
};

type WorkerConfig = Env<typeof WORKER_ENV>;
