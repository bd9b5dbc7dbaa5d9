import { Counter, type Metric, type Registry } from 'prom-client';

// For what happens with every request: counted in plain numbers, and put into prom-client's form when somebody looks.
// prom-client itself makes a key of the labels each time, which cost the ingress a twentieth of its requests.

/** A counter with two labels, a text and a whole number. */
export type HotCounter = { inc(text: string, number: number): void };
/** A histogram without labels. */
export type HotHistogram = { observe(value: number): void };

type Description = { name: string; help: string; registry: Registry };

export function createHotCounter<L extends string>(
  { name, help, registry }: Description,
  [textLabel, numberLabel]: [L, L],
): HotCounter {
  const counts = new Map<string, Map<number, number>>();
  new Counter({
    name,
    help,
    labelNames: [textLabel, numberLabel],
    registers: [registry],
    collect() {
      this.reset();
      for (const [text, byNumber] of counts) {
        for (const [number, count] of byNumber) this.labels(text, String(number)).inc(count);
      }
    },
  });
  return {
    inc(text, number) {
      let byNumber = counts.get(text);
      if (!byNumber) {
        byNumber = new Map();
        counts.set(text, byNumber);
      }
      byNumber.set(number, (byNumber.get(number) ?? 0) + 1);
    },
  };
}

/** @param bounds upper ones of the buckets, rising */
export function createHotHistogram({ name, help, registry }: Description, bounds: number[]): HotHistogram {
  const counts = new Float64Array(bounds.length + 1);
  let sum = 0;
  const toValues = () => {
    let count = 0;
    const buckets = [...bounds, '+Inf'].map((le, bucket) => {
      count += counts[bucket] ?? 0;
      return { metricName: `${name}_bucket`, labels: { le }, value: count };
    });
    return [...buckets, { metricName: `${name}_sum`, value: sum }, { metricName: `${name}_count`, value: count }];
  };
  // All that a registry asks of a metric.
  const metric = { name, get: async () => ({ name, help, type: 'histogram', values: toValues(), aggregator: 'sum' }) };
  registry.registerMetric(metric as unknown as Metric);
  return {
    observe(value) {
      let bucket = 0;
      while (bucket < bounds.length && value > (bounds[bucket] as number)) bucket++;
      counts[bucket] = (counts[bucket] as number) + 1;
      sum += value;
    },
  };
}
