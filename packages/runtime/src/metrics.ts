import { withTimeout } from '@opm/core';
import { Counter, collectDefaultMetrics, Gauge, Histogram, Registry } from 'prom-client';
import { createHotCounter, createHotHistogram } from './hot-metrics.js';

export type Metrics = ReturnType<typeof createMetrics>;

const READ_TIMEOUT_MS = 2_000;

/** The metrics of one process, in Prometheus's format, with those of Node.js itself among them. */
export function createMetrics({ process }: { process: string }) {
  const registry = new Registry();
  registry.setDefaultLabels({ process });
  collectDefaultMetrics({ register: registry });
  const registers = [registry];
  return {
    counter: <L extends string>(name: string, help: string, labelNames: L[] = []) =>
      new Counter({ name, help, labelNames, registers }),
    histogram: (name: string, help: string, buckets: number[]) => new Histogram({ name, help, buckets, registers }),
    /** Like `counter` and `histogram`, for what happens with every request. */
    hotCounter: <L extends string>(name: string, help: string, labelNames: [L, L]) =>
      createHotCounter({ name, help, registry }, labelNames),
    hotHistogram: (name: string, help: string, bounds: number[]) =>
      createHotHistogram({ name, help, registry }, bounds),
    /** Its values are read anew whenever metrics are rendered; what cannot be read in time is left out. */
    gauge<L extends string>(
      name: string,
      help: string,
      labelNames: L[],
      read: () => Promise<[labels: Partial<Record<L, string>>, value: number][]>,
    ): void {
      async function collect(this: Gauge<L>): Promise<void> {
        const values = await withTimeout(read(), READ_TIMEOUT_MS).catch(() => []);
        this.reset();
        if (labelNames.length === 0) this.remove(); // a reset removes series with labels, and makes the one without them 0
        for (const [labels, value] of values) this.set(labels, value);
      }
      new Gauge({ name, help, labelNames, registers, collect });
    },
    contentType: registry.contentType,
    render: () => registry.metrics(),
  };
}
