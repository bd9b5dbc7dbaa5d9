import { readFileSync } from 'node:fs';
import { version as node } from 'node:process';
import { withTimeout } from '@opm/core';
import { Counter, collectDefaultMetrics, Gauge, Histogram, type Metric, Registry } from 'prom-client';

export type Metrics = ReturnType<typeof createMetrics>;

const READ_TIMEOUT_MS = 2_000;

const readRoot = (file: string) => readFileSync(new URL(`../../../${file}`, import.meta.url), 'utf8');

/** The release, and the commit that the image was built from: the build writes it to the file `revision`. */
function readBuild(): { version: string; revision: string } {
  const { version } = JSON.parse(readRoot('package.json'));
  try {
    return { version, revision: readRoot('revision').trim() };
  } catch {
    return { version, revision: 'unknown' };
  }
}

/** Creates the metrics of one process in Prometheus's text format, including those of Node.js. */
export function createMetrics({ process }: { process: string }) {
  const registry = new Registry();
  registry.setDefaultLabels({ process });
  collectDefaultMetrics({ register: registry });
  const registers = [registry];
  const build = { ...readBuild(), node };
  const help = 'The release, its commit and the version of Node.js; always 1';
  new Gauge({ name: 'opm_build_info', help, labelNames: Object.keys(build), registers }).set(build, 1);
  return {
    counter: <L extends string>(name: string, help: string, labelNames: L[] = []) =>
      new Counter({ name, help, labelNames, registers }),
    histogram: (name: string, help: string, buckets: number[]) => new Histogram({ name, help, buckets, registers }),
    /**
     * Cheaper versions of `counter` and `histogram`, for events of every request. `zeros` are series that begin at 0.
     */
    hotCounter: <L extends string>(name: string, help: string, labelNames: [L, L], zeros?: [string, number][]) =>
      createHotCounter({ name, help, registry }, labelNames, zeros),
    hotHistogram: (name: string, help: string, bounds: number[]) =>
      createHotHistogram({ name, help, registry }, bounds),
    /** Calls `read` at each scrape. If `read` fails or takes longer than 2 s, the metric is left out. */
    gauge<L extends string>(
      name: string,
      help: string,
      labelNames: L[],
      read: () => Promise<[labels: Partial<Record<L, string>>, value: number][]>,
    ): void {
      async function collect(this: Gauge<L>): Promise<void> {
        const values = await withTimeout(read(), READ_TIMEOUT_MS).catch(() => []);
        this.reset();
        // `reset` removes series with labels, but sets a series without labels to 0.
        if (labelNames.length === 0) this.remove();
        for (const [labels, value] of values) this.set(labels, value);
      }
      new Gauge({ name, help, labelNames, registers, collect });
    },
    /**
     * Counts entries by project and outcome, for the projects that the caller names and `other`.
     * @param zeros outcomes whose series begin at 0 when the project's first one begins
     * @returns a function that adds counts, by project; projects that are not among them lose their series
     */
    projectCounter(zeros: string[] = []): (outcomesOf: Map<string, Record<string, number>>) => void {
      const entries = new Counter({
        name: 'opm_project_entries_total',
        help: 'Entries of the busiest projects, and of all others as `other`, by what became of them',
        labelNames: ['project', 'outcome'],
        registers,
      });
      const series = new Map<string, Set<string>>();
      return (outcomesOf) => {
        for (const [project, outcomes] of series) {
          if (outcomesOf.has(project)) continue;
          for (const outcome of outcomes) entries.remove(project, outcome);
          series.delete(project);
        }
        for (const [project, outcomes] of outcomesOf) {
          if (!series.has(project)) {
            series.set(project, new Set(zeros));
            for (const outcome of zeros) entries.inc({ project, outcome }, 0);
          }
          for (const [outcome, count] of Object.entries(outcomes)) {
            entries.inc({ project, outcome }, count);
            series.get(project)?.add(outcome);
          }
        }
      };
    },
    contentType: registry.contentType,
    render: () => registry.metrics(),
  };
}

// Hot metrics count in plain numbers and convert them to prom-client's form at each scrape. prom-client's own metrics
// build a key from the labels on every call, which cost the ingress 5 % of its throughput.

/** A counter with two labels, a string and a whole number. */
type HotCounter = { inc(text: string, number: number): void };
/** A histogram without labels. */
type HotHistogram = { observe(value: number): void };

type Description = { name: string; help: string; registry: Registry };

function createHotCounter<L extends string>(
  { name, help, registry }: Description,
  [textLabel, numberLabel]: [L, L],
  zeros: [string, number][] = [],
): HotCounter {
  const counts = new Map<string, Map<number, number>>();
  for (const [text, number] of zeros) counts.set(text, (counts.get(text) ?? new Map()).set(number, 0));
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

/** @param bounds the buckets' upper bounds, in ascending order */
function createHotHistogram({ name, help, registry }: Description, bounds: number[]): HotHistogram {
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
  // A registry uses only these two properties of a metric.
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
