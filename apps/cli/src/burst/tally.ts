import { createHistogram } from 'node:perf_hooks';

/** An hour, in µs. */
const MAX_LATENCY = 3_600_000_000;

/** What has come back. Its memory does not grow with the entries. */
export class Tally {
  accepted = 0;
  /** Answered with anything but 201 and 202. */
  refused = 0;
  /** Nobody knows what became of them. */
  unanswered = 0;
  /** Entries by status, or by the reason why there is none. */
  readonly statuses: Record<string, number> = {};
  readonly #latencies = createHistogram({ lowest: 1, highest: MAX_LATENCY, figures: 3 });

  get total(): number {
    return this.accepted + this.refused + this.unanswered;
  }

  /** One entry's answer. @returns whether it is accepted */
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

  /** Of one request. */
  latency(ms: number): void {
    this.#latencies.record(Math.min(MAX_LATENCY, Math.max(1, Math.round(ms * 1_000))));
  }

  /** Milliseconds; 0 where nothing was measured. */
  latencies(): { p50Ms: number; p99Ms: number; maxMs: number } {
    if (this.#latencies.count === 0) return { p50Ms: 0, p99Ms: 0, maxMs: 0 };
    const [p50Ms = 0, p99Ms = 0, maxMs = 0] = [50, 99, 100].map((p) => this.#latencies.percentile(p) / 1_000);
    return { p50Ms, p99Ms, maxMs };
  }

  #count(name: string, entries: number): void {
    this.statuses[name] = (this.statuses[name] ?? 0) + entries;
  }
}
