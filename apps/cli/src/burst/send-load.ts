import { setMaxListeners } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import type { Entries } from './entries.js';
import type { Tally } from './tally.js';
import { type Target, toCode } from './target.js';

export type Load = {
  /** How many entries. */
  total: number;
  /** Entries per request. */
  batch: number;
  /** Requests at the same time. */
  connections: number;
  /** Entries per second; as fast as it goes without it. */
  rate?: number | undefined;
};

/**
 * Sends the entries and counts what comes back; nothing is sent again. With a rate, latencies count from the moment at which
 * a request was due, so that a server that hangs cannot hide it by holding up the next ones.
 * @param signal no more requests are begun; those under way are waited for
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
  setMaxListeners(0, signal); // each connection waits with it
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
