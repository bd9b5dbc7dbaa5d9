import { setMaxListeners } from 'node:events';
import { createHistogram } from 'node:perf_hooks';
import { setTimeout as delay } from 'node:timers/promises';
import { type Target, toCode } from './target.js';

export type Load = {
  /** Entries in total. */
  total: number;
  /** Entries per request. */
  batch: number;
  /** Concurrent requests. */
  connections: number;
  /** Entries per second. As fast as possible if undefined. */
  rate?: number | undefined;
};

/**
 * Sends the entries and counts the answers. Repeats no request. With a rate, the latency of a request counts from the
 * time at which it was due; otherwise a server that hangs would hide it by delaying the next requests (coordinated
 * omission).
 * @param signal starts no more requests; waits for those in flight
 */
export async function sendLoad(
  { total, batch, connections, rate }: Load,
  {
    target,
    entries,
    tally,
    onAccepted,
    signal,
  }: { target: Target; entries: Entries; tally: Tally; onAccepted?: (n: number) => void; signal: AbortSignal },
): Promise<void> {
  setMaxListeners(0, signal); // each connection adds a listener
  const startedAt = performance.now();
  let next = 0;

  async function sendInTurn(): Promise<void> {
    while (next < total && !signal.aborted) {
      const first = next;
      next = Math.min(total, first + batch);
      const numbers = Array.from({ length: next - first }, (_, i) => first + i);
      const now = performance.now();
      const dueAt = rate === undefined ? now : startedAt + (first * 1_000) / rate;
      if (dueAt > now) await delay(dueAt - now, undefined, { signal }).catch(() => {});
      if (!signal.aborted) await send(numbers, dueAt);
    }
  }

  async function send(numbers: number[], dueAt: number): Promise<void> {
    const bodies = numbers.map(entries.bodyOf);
    const call = batch === 1 ? { path: '/entry', body: bodies[0] } : { path: '/entries', body: bodies };
    try {
      const { status, text } = await target.request({
        method: 'POST',
        path: call.path,
        body: JSON.stringify(call.body),
      });
      tally.latency(performance.now() - dueAt);
      const statuses = status === 207 ? readStatuses(text) : numbers.map(() => status);
      for (const [i, n] of numbers.entries()) if (tally.answer(statuses[i] ?? status)) onAccepted?.(n);
    } catch (error) {
      tally.noAnswer(toCode(error), numbers.length);
    }
  }

  await Promise.all(Array.from({ length: connections }, sendInTurn));
}

function readStatuses(text: string): number[] {
  const { results } = JSON.parse(text) as { results: { statusCode: number }[] };
  return results.map(({ statusCode }) => statusCode);
}

/** The entries of a burst, by number from 0. */
export type Entries = {
  idOf(n: number): string;
  bodyOf(n: number): Record<string, string>;
};

/**
 * Creates entries round-robin over the customers, so the first `customers` entries create each of them once. Ids differ
 * between runs. Each entry of a customer changes the phone and the last name.
 */
export function createEntries({ run, customers }: { run: string; customers: number }): Entries {
  const idOf = (n: number) => `burst-${run}-${(n % customers) + 1}`;
  return {
    idOf,
    bodyOf(n) {
      const customerId = idOf(n);
      return {
        customerId,
        customerEmail: `${customerId}@example.com`,
        customerPhone: `+49 30 ${n}`,
        customerFirstName: 'First',
        customerLastName: `Last ${n}`,
        customerIP: '203.0.113.7',
      };
    },
  };
}

/** An hour, in µs. */
const MAX_LATENCY = 3_600_000_000;

/** Counts answers and latencies in constant memory. */
export class Tally {
  accepted = 0;
  /** Entries answered with another status than 201 and 202. */
  refused = 0;
  /** Entries without an answer. They may have been accepted. */
  unanswered = 0;
  /** Entries by status, or by error code if there was no answer. */
  readonly statuses: Record<string, number> = {};
  readonly #latencies = createHistogram({ lowest: 1, highest: MAX_LATENCY, figures: 3 });

  get total(): number {
    return this.accepted + this.refused + this.unanswered;
  }

  /** Counts the answer to one entry. @returns whether the entry is accepted */
  answer(status: number): boolean {
    const isAccepted = status === 201 || status === 202;
    if (isAccepted) this.accepted++;
    else this.refused++;
    this.#count(String(status), 1);
    return isAccepted;
  }

  noAnswer(reason: string, entries: number): void {
    this.unanswered += entries;
    this.#count(reason, entries);
  }

  /** Records the latency of one request. */
  latency(ms: number): void {
    this.#latencies.record(Math.min(MAX_LATENCY, Math.max(1, Math.round(ms * 1_000))));
  }

  /** In milliseconds; 0 if nothing was recorded. */
  latencies(): { p50Ms: number; p99Ms: number; maxMs: number } {
    if (this.#latencies.count === 0) return { p50Ms: 0, p99Ms: 0, maxMs: 0 };
    const [p50Ms = 0, p99Ms = 0, maxMs = 0] = [50, 99, 100].map((p) => this.#latencies.percentile(p) / 1_000);
    return { p50Ms, p99Ms, maxMs };
  }

  #count(name: string, entries: number): void {
    this.statuses[name] = (this.statuses[name] ?? 0) + entries;
  }
}
