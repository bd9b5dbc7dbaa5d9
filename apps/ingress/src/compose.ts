import { createEntryQueue, toQueueConfig } from '@opm/queue';
import { createThrottledWarning, type ProcessContext } from '@opm/runtime';
import { createActivityReporter, createStore } from '@opm/store';
import { createIngressApp } from './app.js';
import { type IngressConfig, toTimeBudget } from './config.js';
import { createAuthenticator } from './guards/authenticate.js';
import { createOverload, watchStalls } from './guards/overload.js';
import { createRateLimiter, createRecordLimit } from './guards/rate-limiter.js';
import { createUnknownKeys } from './guards/unknown-keys.js';
import type { IsAbandoned } from './http/request-context.js';
import { serveIngress } from './http/server.js';
import { createAcceptEntry } from './ingest/accept-entry.js';
import { CircuitBreaker } from './ingest/circuit-breaker.js';
import { createFindExisting } from './ingest/find-existing.js';
import { createAcceptKeyed } from './ingest/idempotency.js';
import { createChunkPartitions } from './ingest/partitions.js';
import { createIngressMetrics } from './metrics.js';
import { createFindCustomer, createFindQueued } from './routes/get-entry.js';
import { createListRefused, createReadProject } from './routes/get-project.js';

/** Connections for look-ups. A look-up asks about a whole chunk, so a few of them keep PostgreSQL busy. */
const LOOK_UPS = 4;

/** Creates every object of the ingress and passes each its dependencies. */
export async function compose(context: ProcessContext<IngressConfig>): Promise<void> {
  const { config, logger, health, signal, onClose } = context;
  const budget = toTimeBudget(config.ANSWER_TIMEOUT_MS);

  const store = createStore({
    databaseUrl: config.DATABASE_URL,
    poolSize: LOOK_UPS,
    connectTimeoutMs: budget.statementMs,
    statementTimeoutMs: budget.statementMs,
    byIndexOnly: true,
    applicationName: 'opm-ingress',
  });
  onClose('store', store.close);
  health.postgres = toleratingOutages(store.ping);

  // Connects and compiles the two queries of the hot path, so that the first request does not pay for it.
  // Two attempts: just after its start, PostgreSQL may need longer for the first session than a look-up is allowed.
  const warmUp = () => Promise.all([store.customers.findExisting([]), store.apiKeys.findOwners(['00'])]);
  await warmUp()
    .catch(warmUp)
    .catch(({ message }: Error) =>
      logger.warn({ reason: message }, 'PostgreSQL does not answer; the ingress is not ready until it does'),
    );

  // Has its own connection, because a report may take longer than a look-up is allowed.
  const reportStore = createStore({
    databaseUrl: config.DATABASE_URL,
    poolSize: 1,
    connectTimeoutMs: 5_000,
    statementTimeoutMs: 15_000,
    applicationName: 'opm-ingress-reports',
  });
  onClose('report store', reportStore.close);
  const metrics = createIngressMetrics(context.metrics);
  const activity = createActivityReporter({
    activity: reportStore.activity,
    name: 'ingress',
    onReported: metrics.onReported,
    onFailed: createThrottledWarning(
      logger,
      'could not report counts per project; keeping them until PostgreSQL answers',
    ),
  });
  onClose('activity', activity.close);

  const queue = await createEntryQueue({
    ...toQueueConfig(config),
    signal,
    onError: createThrottledWarning(logger, 'queue connection'),
  });
  onClose('queue', queue.close);
  health.queue = queue.check;

  // One circuit breaker per query, because one table may be slow while another is not.
  const createBreaker = (what: string) =>
    new CircuitBreaker({
      onFailure: (error) => logger.warn({ err: error, what }, 'PostgreSQL look-up failed; pausing look-ups'),
    });
  const findExisting = createFindExisting({
    query: store.customers.findExisting,
    maxInFlight: LOOK_UPS,
    timeoutMs: budget.lookUpMs,
    breaker: createBreaker('customers'),
    onUnknown: metrics.onExistenceUnknown,
  });
  const stalls = watchStalls(config.ANSWER_TIMEOUT_MS, (ms) =>
    logger.warn({ ms }, 'process stalled; refusing entries sent during the stall'),
  );
  onClose('stalls', stalls.close);
  const isAbandoned: IsAbandoned = ({ socket, startedAt }) => socket.destroyed || stalls.isStale(startedAt);
  const recordLimit = createRecordLimit(queue.idempotency);
  const { acceptEntry, acceptEntries, acceptPart, pending, chunksInFlight } = createAcceptEntry({
    queue,
    findExisting,
    chunkPartitions: createChunkPartitions(config.QUEUE_SHARDS),
    maxInFlight: config.CHUNKS_IN_FLIGHT,
    budget,
    maxEntries: config.CHUNK_MAX_ENTRIES,
    maxPending: config.PENDING_MAX_ENTRIES,
    isAbandoned,
    onChunk: metrics.onChunk,
    onRecordBytes: recordLimit.onBytes,
    onShed: metrics.onShed,
    logger,
  });
  const rateLimiter = createRateLimiter({
    reserve: queue.reserve,
    budget,
    maxPending: config.PENDING_MAX_ENTRIES,
    onReserve: metrics.onReserve,
    onShed: metrics.onShed,
    logger,
  });
  const acceptKeyed = createAcceptKeyed({
    idempotency: queue.idempotency,
    recordLimit,
    acceptPart,
    takeTokens: rateLimiter.take,
    shards: config.QUEUE_SHARDS,
    groupSize: config.CHUNK_MAX_ENTRIES,
    budget,
    maxPending: config.PENDING_MAX_ENTRIES,
    onShed: metrics.onShed,
    logger,
  });
  const findCustomer = createFindCustomer({
    readClaims: queue.readClaims,
    findVersioned: store.customers.findVersioned,
    findRefused: store.deadLetters.findRefused,
    shards: config.QUEUE_SHARDS,
    budget,
    maxInFlight: LOOK_UPS / 2,
    breaker: createBreaker('reading customers'),
  });
  const findQueued = createFindQueued({ listJobs: queue.listJobs, shards: config.QUEUE_SHARDS, budget });
  const listRefused = createListRefused({
    listRefused: store.deadLetters.listRefused,
    findVersioned: store.customers.findVersioned,
    budget,
    breaker: createBreaker('refused entries'),
  });
  const readProject = createReadProject({
    usage: store.activity.usage,
    keys: store.apiKeys.listActive,
    budget,
    createBreaker,
  });
  const overload = createOverload({
    load: queue.load,
    maxBacklog: config.BACKLOG_MAX_ENTRIES,
    maxEventLoopDelayMs: config.EVENT_LOOP_MAX_DELAY_MS,
    onShed: metrics.onShed,
    logger,
  });
  onClose('overload', overload.close);
  metrics.watch({ load: () => overload.last, chunksInFlight, pending, clockSkew: queue.clockSkew });

  const authenticator = createAuthenticator({
    findOwners: store.apiKeys.findOwners,
    readRevision: store.apiKeys.readRevision,
    breaker: createBreaker('API keys'),
    unknownKeys: createUnknownKeys(),
  });
  onClose('authenticator', authenticator.close);

  const { app, handle } = createIngressApp({
    authenticator,
    overload,
    rateLimiter,
    acceptEntry,
    acceptEntries,
    acceptKeyed,
    budget,
    groupSize: config.CHUNK_MAX_ENTRIES,
    findCustomer,
    findQueued,
    listRefused,
    readProject,
    trustedProxies: config.TRUSTED_PROXIES,
    activity,
    metrics,
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
    onConnectionEnd: metrics.onConnectionEnd,
  });
  onClose('server', server.close);
  logger.info({ port: server.port, queue: config.REDIS_URL ? 'redis' : 'postgres' }, 'accepting entries');
}

/**
 * A health check that fails only until PostgreSQL has answered once. A new ingress knows no API keys, so it is not
 * ready without PostgreSQL. Later the keys are cached and the ingress stays ready during an outage; otherwise an outage
 * of PostgreSQL would become an outage of the API.
 */
function toleratingOutages(ping: () => Promise<void>): () => Promise<string | void> {
  let reached = false;
  return async () => {
    try {
      await ping();
      reached = true;
    } catch (error) {
      if (!reached) throw error;
      return `down; with the queue on Redis, entries are still accepted: ${(error as Error).message}`;
    }
  };
}
