import type { QueueLoad } from '@opm/queue';
import type { Metrics } from '@opm/runtime';
import { type OnShed, SHED } from './guards/overload.js';

export type IngressMetrics = ReturnType<typeof createIngressMetrics>;

/** The metrics of the ingress, as one function per event. */
export function createIngressMetrics(metrics: Metrics) {
  // These series and those of `shed` begin at 0, because rate() does not see the increase with which a series begins.
  const failures = ['/entry', '/entries'].flatMap((route) =>
    [500, 503].map((status): [string, number] => [route, status]),
  );
  const answers = metrics.hotCounter(
    'opm_answers_total',
    'Responses by route and status',
    ['route', 'status'],
    failures,
  );
  const ackSeconds = metrics.hotHistogram(
    'opm_ack_seconds',
    'Time from the last byte of a single entry or erasure to its acknowledgement',
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
  );
  const chunkEntries = metrics.histogram('opm_chunk_entries', 'Entries per chunk', [1, 2, 5, 10, 20, 50, 100, 200]);
  const unknown = metrics.counter(
    'opm_existence_unknown_total',
    'Entries answered 202 because PostgreSQL did not answer',
  );
  const shed = metrics.counter(
    'opm_shed_total',
    'Refused entries and reads by reason: overload, rate limit or idempotency keys',
    ['reason'],
  );
  const connectionsEnded = metrics.counter(
    'opm_connections_ended_total',
    'Connections closed for over 100 unanswered requests, or for too much memory of requests and unread responses',
  );
  const reservations = metrics.counter(
    'opm_token_leases_total',
    'Token reservations of rate-limited projects; many share one call to the queue store',
  );
  for (const reason of Object.keys(SHED)) shed.inc({ reason }, 0);

  return {
    onAnswer: (route: string, status: number): void => answers.inc(route, status),
    onAck: (seconds: number): void => ackSeconds.observe(seconds),
    onChunk: (entries: number): void => chunkEntries.observe(entries),
    onExistenceUnknown: (entries: number): void => unknown.inc(entries),
    onConnectionEnd: (): void => connectionsEnded.inc(),
    onReserve: (): void => reservations.inc(),
    /** Called with the outcomes of entries by project. */
    onReported: metrics.projectCounter(['refused_unavailable']),
    onShed: ((reason, entries) => shed.inc({ reason }, entries)) satisfies OnShed,
    /** Registers the gauges that are read at each scrape. */
    watch(read: {
      load: () => QueueLoad;
      chunksInFlight: () => number;
      pending: () => number;
      clockSkew: () => Promise<number>;
    }): void {
      const gauge = (name: string, help: string, value: () => number) =>
        metrics.gauge(name, help, [], async () => [[{}, value()]]);
      gauge('opm_backlog_entries', 'Entries waiting in the queues of all shards', () => read.load().entries);
      gauge(
        'opm_redis_memory_ratio',
        'Used share of maxmemory on the fullest Redis node, 0 to 1',
        () => read.load().memory,
      );
      gauge('opm_chunks_in_flight', 'Chunks being enqueued', read.chunksInFlight);
      gauge('opm_pending_entries', 'Entries waiting for their acknowledgement', read.pending);
      metrics.gauge(
        'opm_clock_skew_seconds',
        'How far the clock of the queue store is ahead of the clock of this process',
        [],
        async () => [[{}, (await read.clockSkew()) / 1_000]],
      );
    },
  };
}
