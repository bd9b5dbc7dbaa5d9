import type { QueueLoad } from '@opm/queue';
import type { Metrics } from '@opm/runtime';

export type Measures = ReturnType<typeof createMeasures>;

/** What the ingress counts, in terms of what happens to it. */
export function createMeasures(metrics: Metrics) {
  const answers = metrics.hotCounter('opm_answers_total', 'Answers by route and status', ['route', 'status']);
  const ackSeconds = metrics.hotHistogram(
    'opm_ack_seconds',
    'Time from an entry’s last byte to its acknowledgement',
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5],
  );
  const chunkEntries = metrics.histogram('opm_chunk_entries', 'Entries per chunk', [1, 2, 5, 10, 20, 50, 100, 200]);
  const unknown = metrics.counter(
    'opm_existence_unknown_total',
    'Entries answered 202 because PostgreSQL did not answer',
  );
  const shed = metrics.counter(
    'opm_shed_total',
    'Entries and reads turned away because there was too much to do, or more than a project may send',
    ['reason'],
  );
  const connectionsEnded = metrics.counter(
    'opm_connections_ended_total',
    'Connections ended for what they held in memory: requests and answers that nobody read',
  );
  const leases = metrics.counter(
    'opm_token_leases_total',
    'Reservations of tokens for limited projects; many share one call to the queue’s store',
  );
  // Series that are there from the start, so that the first increase is one.
  for (const reason of ['backlog', 'memory', 'event-loop', 'in-flight', 'waited', 'rate-limit', 'idempotency-keys'])
    shed.inc({ reason }, 0);

  return {
    onAnswer: (route: string, status: number): void => answers.inc(route, status),
    onAck: (seconds: number): void => ackSeconds.observe(seconds),
    onChunk: (entries: number): void => chunkEntries.observe(entries),
    onExistenceUnknown: (entries: number): void => unknown.inc(entries),
    onConnectionEnd: (): void => connectionsEnded.inc(),
    onLease: (): void => leases.inc(),
    onShed: (reason: string, entries = 1): void => shed.inc({ reason }, entries),
    /** Reads at each scrape what changes all the time. */
    watch(read: {
      load: () => QueueLoad;
      chunksInFlight: () => number;
      pending: () => number;
      clockSkew: () => Promise<number>;
    }): void {
      const gauge = (name: string, help: string, value: () => number) =>
        metrics.gauge(name, help, [], async () => [[{}, value()]]);
      gauge('opm_backlog_entries', 'Entries that wait in the queues of all shards', () => read.load().entries);
      gauge('opm_redis_memory_ratio', 'Part of its maxmemory that the fullest Redis uses', () => read.load().memory);
      gauge('opm_chunks_in_flight', 'Chunks on their way into the queue', read.chunksInFlight);
      gauge('opm_pending_entries', 'Entries that wait for their acknowledgement', read.pending);
      metrics.gauge(
        'opm_clock_skew_seconds',
        'How far the queue store’s clock is ahead of this process’s',
        [],
        async () => [[{}, (await read.clockSkew()) / 1_000]],
      );
    },
  };
}
