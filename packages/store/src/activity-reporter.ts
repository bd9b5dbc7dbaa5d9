import { randomUUID } from 'node:crypto';
import { createRequire } from 'node:module';
import { hostname } from 'node:os';
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import { pid } from 'node:process';
import { withTimeout } from '@opm/core';
import {
  type Activity,
  COUNTERS,
  type Counts,
  type Latency,
  OTHER_PROJECTS,
  type ProcessState,
  type Report,
  toNoCounts,
} from './activity.js';
import { OTHERS } from './projects.js';
import { toColumn } from './upsert-customers.js';

/** Entries by what became of them, such as `refused_limited`. */
export type Outcomes = Record<string, number>;

type ReporterDeps = {
  activity: Pick<Activity, 'report' | 'end'>;
  /** Name of the process, such as `ingress`. */
  name: string;
  readState?: () => ProcessState;
  /** Called after each report with the outcomes of the busiest projects, by name, and of all others, as `other`. */
  onReported: (outcomesOf: Map<string, Outcomes>) => void;
  onFailed: (error: Error) => void;
};

export type ActivityReporter = ReturnType<typeof createActivityReporter>;

const INTERVAL_MS = 5_000;
/**
 * PostgreSQL takes 0.03 ms per project or key in a report. This pause leaves it about a hundred times as long for other
 * work. The pause is random, so that processes do not report together.
 */
const REST_MS_PER_ROW = 3;
/** Timeout of the last report when the process ends. Counts that are not reported by then are lost. */
const CLOSE_TIMEOUT_MS = 2_000;
/** Projects that are counted one by one between two reports. */
const MAX_PROJECTS = 10_000;
const MAX_USED_KEYS = 10_000;
/** Projects whose latencies and outcomes a process reports one by one. */
export const BUSIEST_PROJECTS = 20;
/** The weight of earlier reports. Without it, projects of equal size would take turns among the busiest. */
const DECAY = 0.9;
const OUTCOMES = COUNTERS.filter((counter) => !counter.startsWith('answered'));
const OUTCOME_NAMES = OUTCOMES.map(toColumn);

/**
 * Counts in memory what each project does, and reports it every five seconds, or about every minute if thousands of
 * projects and keys are active. While PostgreSQL does not answer, the counts stay in memory. A killed process loses
 * those since its last report.
 */
export function createActivityReporter(deps: ReporterDeps) {
  const { activity, name, readState = () => ({}), onReported, onFailed } = deps;
  const { version } = createRequire(import.meta.url)('../package.json') as { version: string };
  const self = { id: randomUUID(), name, host: hostname(), pid, version };
  const latencies = createLatencies();
  let counts = new Map<number, Counts>();
  let usedKeys = new Set<number>();
  /** The report in flight. It keeps its number until it is known to be stored. */
  let unconfirmed: Pick<Report, 'counts' | 'usedKeys'> | undefined;
  let reports = 0;
  let countsDueAt = 0;
  let scores = new Map<number, number>();
  /** Latencies of the busiest projects. */
  let busiest = new Map<number, RecordableHistogram>();
  let sending: Promise<void> | undefined;

  function of(projectId: number): Counts {
    const isFull = counts.size >= MAX_PROJECTS;
    const known = counts.get(projectId) ?? (isFull ? counts.get(OTHER_PROJECTS) : undefined);
    if (known) return known;
    const fresh = toNoCounts();
    counts.set(isFull ? OTHER_PROJECTS : projectId, fresh);
    return fresh;
  }

  function take(): Pick<Report, 'counts' | 'usedKeys'> {
    const taken = { counts, usedKeys: [...usedKeys] };
    counts = new Map();
    usedKeys = new Set();
    const totals = new Map([...scores].map(([projectId, score]) => [projectId, score * DECAY]));
    for (const [projectId, own] of taken.counts) {
      if (projectId !== OTHER_PROJECTS) totals.set(projectId, (totals.get(projectId) ?? 0) + totalOf(own));
    }
    scores = new Map([...totals].sort(([, a], [, b]) => b - a).slice(0, BUSIEST_PROJECTS));
    return taken;
  }

  /** The latencies since the last call. */
  function takeState(): ProcessState {
    const ofBusiest: Record<number, Latency> = {};
    for (const [projectId, own] of busiest) {
      const latency = takeLatency(own);
      if (latency) ofBusiest[projectId] = latency;
    }
    busiest = new Map([...scores.keys()].map((projectId) => [projectId, busiest.get(projectId) ?? createLatencies()]));
    return { ...readState(), ...takeLatency(latencies), busiest: ofBusiest };
  }

  async function send({ isLast = false } = {}): Promise<void> {
    const now = performance.now();
    if (!unconfirmed) {
      unconfirmed = isLast || now >= countsDueAt ? take() : { counts: new Map(), usedKeys: [] };
      reports++;
    }
    const report = { ...self, uptimeSeconds: now / 1_000, report: reports, state: takeState(), ...unconfirmed };
    const names = await activity.report(report, [...scores.keys()]);
    if (unconfirmed.counts.size > 0) onReported(toOutcomes(unconfirmed.counts, names));
    const rows = unconfirmed.counts.size + unconfirmed.usedKeys.length;
    countsDueAt = Math.max(countsDueAt, now + rows * REST_MS_PER_ROW * (0.8 + 0.4 * Math.random()));
    unconfirmed = undefined;
  }

  function report(): void {
    sending ??= send()
      .catch(onFailed)
      .finally(() => {
        sending = undefined;
      });
  }
  const first = setImmediate(report); // so that `opm status` sees a process that has just started
  const timer = setInterval(report, INTERVAL_MS).unref();

  async function end(): Promise<void> {
    await sending;
    if (unconfirmed) await send();
    await send({ isLast: true });
    await activity.end(self.id);
  }

  return {
    /** The counts of a project since the last report. Do not keep them longer than a turn of the event loop. */
    of,
    onKeyUse(keyId: number): void {
      if (usedKeys.size < MAX_USED_KEYS) usedKeys.add(keyId);
    },
    onLatency(projectId: number, ms: number): void {
      const microseconds = Math.min(Math.max(Math.round(ms * 1_000), 1), MAX_LATENCY);
      latencies.record(microseconds);
      busiest.get(projectId)?.record(microseconds);
    },
    /** Reports the rest. */
    async close(): Promise<void> {
      clearImmediate(first);
      clearInterval(timer);
      await withTimeout(end(), CLOSE_TIMEOUT_MS).catch(onFailed);
    },
  };
}

/** An hour, in microseconds. */
const MAX_LATENCY = 3_600_000_000;

const createLatencies = () => createHistogram({ lowest: 1, highest: MAX_LATENCY, figures: 2 });

/** Reads the quantiles and starts anew. @returns undefined if nothing was recorded */
function takeLatency(latencies: RecordableHistogram): Latency | undefined {
  if (latencies.count === 0) return undefined;
  const [p50Ms, p99Ms] = [50, 99].map((percentile) => latencies.percentile(percentile) / 1_000);
  latencies.reset();
  return { p50Ms: p50Ms ?? 0, p99Ms: p99Ms ?? 0 };
}

const totalOf = (counts: Counts): number => OUTCOMES.reduce((total, counter) => total + counts[counter], 0);

function toOutcomes(counts: ReadonlyMap<number, Counts>, names: Map<number, string>): Map<string, Outcomes> {
  const outcomesOf = new Map<string, Outcomes>();
  for (const projectName of [...names.values(), OTHERS]) outcomesOf.set(projectName, {});
  for (const [projectId, own] of counts) {
    const outcomes = outcomesOf.get(names.get(projectId) ?? OTHERS) as Outcomes;
    for (const [i, counter] of OUTCOMES.entries()) {
      if (own[counter] === 0) continue;
      const outcome = OUTCOME_NAMES[i] as string;
      outcomes[outcome] = (outcomes[outcome] ?? 0) + own[counter];
    }
  }
  return outcomesOf;
}
