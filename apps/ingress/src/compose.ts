import { createEntryQueue, toQueueConfig } from '@opm/queue';
import { createSparseWarning, type ProcessContext } from '@opm/runtime';
import { createStore } from '@opm/store';
import { createAcceptEntry } from './accept-entry.js';
import { createAnswerOnce } from './answer-once.js';
import { createIngressApp } from './app.js';
import { createAuthenticator } from './authenticate.js';
import { createChunkLanes } from './chunk-lanes.js';
import type { IngressConfig } from './config.js';
import { createFindCustomer } from './find-customer.js';
import { createFindExisting } from './find-existing.js';
import { createLanes } from './lanes.js';
import { createMeasures } from './measures.js';
import { OutagePause } from './outage-pause.js';
import { createOverload } from './overload.js';
import { createRateLimiter } from './rate-limiter.js';
import { serveIngress } from './server.js';
import { toTimeBudget } from './time-budget.js';
import { createUnknownKeys } from './unknown-keys.js';
import { watchStalls } from './watch-stalls.js';

/** The ingress, put together by hand: who gets what stands here and nowhere else. */
export async function compose(context: ProcessContext<IngressConfig>): Promise<void> {
  const { config, logger, metrics, health, signal, onClose } = context;
  const budget = toTimeBudget(config.ANSWER_TIMEOUT_MS);

  const store = createStore({
    databaseUrl: config.DATABASE_URL,
    poolSize: config.DATABASE_POOL_SIZE,
    connectTimeoutMs: budget.statementMs,
    statementTimeoutMs: budget.statementMs,
    byIndexOnly: true,
    applicationName: 'opm-ingress',
  });
  onClose('store', store.close);
  health.postgres = toleratingOutages(store.ping);

  // Connecting and compiling the two queries of the hot path now keeps them out of the first partner's answer.
  // Tried twice: a PostgreSQL that has just started may take longer for the first session than a look-up may.
  const warmUp = () => Promise.all([store.customers.findExisting([]), store.apiKeys.findOwners(['00'])]);
  await warmUp()
    .catch(warmUp)
    .catch(({ message }: Error) =>
      logger.warn({ reason: message }, 'PostgreSQL does not answer; not ready until it does'),
    );

  const queue = await createEntryQueue({
    ...toQueueConfig(config),
    signal,
    onError: createSparseWarning(logger, 'queue connection'),
  });
  onClose('queue', queue.close);
  health.queue = queue.check;

  // One for each of these, because one table may be slow while the other is not.
  const createPause = (what: string) =>
    new OutagePause({
      onFailure: (error) => logger.warn({ err: error, what }, 'PostgreSQL does not answer; going on without it'),
    });
  const measures = createMeasures(metrics);
  const lanes = createLanes(config.QUEUE_SHARDS);
  const findExisting = createFindExisting({
    findExisting: store.customers.findExisting,
    maxInFlight: config.DATABASE_POOL_SIZE,
    timeoutMs: budget.lookUpMs,
    pause: createPause('customers'),
    onUnknown: measures.onExistenceUnknown,
  });
  const stalls = watchStalls(config.ANSWER_TIMEOUT_MS, (ms) =>
    logger.warn({ ms }, 'the process stood still: entries sent meanwhile are refused'),
  );
  onClose('stalls', stalls.close);
  const { acceptEntry, acceptEntries, pending, chunksInFlight } = createAcceptEntry({
    queue,
    findExisting,
    chunkLanes: createChunkLanes(config.QUEUE_SHARDS),
    maxInFlight: config.CHUNKS_IN_FLIGHT,
    budget,
    maxEntries: config.CHUNK_MAX_ENTRIES,
    maxPending: config.PENDING_MAX_ENTRIES,
    isStale: stalls.isStale,
    onChunk: measures.onChunk,
    onShed: measures.onShed,
    logger,
  });
  const rateLimiter = createRateLimiter({
    acceptEntry,
    acceptEntries,
    lease: queue.lease,
    budget,
    maxPending: config.PENDING_MAX_ENTRIES,
    onLease: measures.onLease,
    onShed: measures.onShed,
    logger,
  });
  const answerOnce = createAnswerOnce({
    idempotency: queue.idempotency,
    lanes,
    budget,
    maxPending: config.PENDING_MAX_ENTRIES,
    onShed: measures.onShed,
    logger,
  });
  const findCustomer = createFindCustomer({
    readClaims: queue.readClaims,
    findMany: store.customers.findMany,
    lanes,
    budget,
    maxInFlight: Math.ceil(config.DATABASE_POOL_SIZE / 2),
    pause: createPause('reading customers'),
  });
  const overload = createOverload({
    load: queue.load,
    maxBacklog: config.BACKLOG_MAX_ENTRIES,
    maxEventLoopDelayMs: config.EVENT_LOOP_MAX_DELAY_MS,
    onShed: measures.onShed,
    logger,
  });
  onClose('overload', overload.close);
  measures.watch({ load: () => overload.last, chunksInFlight, pending, clockSkew: queue.clockSkew });

  const authenticator = createAuthenticator({
    findOwners: store.apiKeys.findOwners,
    readRevision: store.apiKeys.readRevision,
    pause: createPause('API keys'),
    unknownKeys: createUnknownKeys(),
  });
  onClose('authenticator', authenticator.close);

  const { app, handle } = createIngressApp({
    authenticator,
    overload,
    rateLimiter,
    answerOnce,
    groupSize: config.CHUNK_MAX_ENTRIES,
    findCustomer,
    trustedProxies: config.TRUSTED_PROXIES,
    measures,
    logger,
  });
  const server = await serveIngress({
    app,
    handle,
    host: config.HOST,
    port: config.PORT,
    maxConnections: config.MAX_CONNECTIONS,
    budget,
    onConnection: stalls.onConnection,
    closeDelayMs: config.SHUTDOWN_DELAY_MS,
    onConnectionEnd: measures.onConnectionEnd,
  });
  onClose('server', server.close);
  logger.info({ port: server.port, queue: config.REDIS_URL ? 'redis' : 'postgres' }, 'accepting entries');
}

/**
 * Without PostgreSQL no key can be looked up, so a fresh ingress is not ready; one that has run knows its partners' keys
 * and goes on acknowledging: taking it out of service would turn an outage of PostgreSQL into one of the API.
 */
function toleratingOutages(ping: () => Promise<void>): () => Promise<string | void> {
  let reached = false;
  return async () => {
    try {
      await ping();
      reached = true;
    } catch (error) {
      if (!reached) throw error;
      return `away; with the queue on Redis entries are accepted all the same: ${(error as Error).message}`;
    }
  };
}
