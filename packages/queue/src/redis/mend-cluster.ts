import { once } from 'node:events';
import type { Cluster } from 'ioredis';

/**
 * Each connection to a node that ends after the others says that the cluster is closed, and with that no more that it has
 * ended: what is sent from then on, or again, would wait for ever.
 */
export function keepEnded(cluster: Cluster): void {
  let hasEnded = false;
  cluster
    .on('end', () => {
      if (hasEnded) return;
      hasEnded = true;
      // A look at the map that is under way would be followed by others, and these keep the process alive.
      cluster.refreshSlotsCache(() => cluster.status === 'end' && cluster.disconnect());
    })
    .on('connecting', () => {
      hasEnded = false;
    })
    .on('close', () => {
      if (hasEnded && cluster.status === 'close') cluster.disconnect();
    });
}

/**
 * Where some slots are not served, ioredis tries again by itself, but who waits for the first attempt never hears
 * of it. A BullMQ worker would take no job any more.
 */
export function settleConnect(cluster: Cluster): void {
  const connect = cluster.connect.bind(cluster);
  let outcome: Promise<unknown> | undefined;

  async function waitForOutcome(): Promise<void> {
    const settled = new AbortController();
    const { signal } = settled;
    const fail = () => Promise.reject(new Error('Connection is closed.')); // BullMQ knows these words
    try {
      await Promise.race([once(cluster, 'ready', { signal }), once(cluster, 'end', { signal }).then(fail)]);
    } finally {
      settled.abort();
      outcome = undefined;
    }
  }

  cluster.connect = async () => {
    outcome ??= waitForOutcome(); // one for all attempts
    await Promise.race([connect(), outcome]);
  };
}
