import { setTimeout as delay } from 'node:timers/promises';
import type { Target } from './target.js';

export type Stored = {
  /** How many customers were asked for. */
  sampled: number;
  /** Those of them that were not stored in time. */
  missing: string[];
  seconds: number;
};

const POLL_INTERVAL_MS = 100;

/** Reads the customers back until nothing of any of them is pending. */
export async function waitUntilStored(
  target: Target,
  customerIds: string[],
  { timeoutMs, signal }: { timeoutMs: number; signal: AbortSignal },
): Promise<Stored> {
  const startedAt = performance.now();
  let open = customerIds;
  for (;;) {
    const areStored = await Promise.all(open.map((customerId) => isStored(target, customerId)));
    open = open.filter((_, i) => !areStored[i]);
    const elapsedMs = performance.now() - startedAt;
    if (open.length === 0 || elapsedMs >= timeoutMs || signal.aborted) {
      return { sampled: customerIds.length, missing: open, seconds: elapsedMs / 1_000 };
    }
    await delay(POLL_INTERVAL_MS, undefined, { signal }).catch(() => {});
  }
}

/** False where there is no answer either: the next look may get one. */
async function isStored(target: Target, customerId: string): Promise<boolean> {
  const path = `/entry/${encodeURIComponent(customerId)}`;
  const answer = await target.request({ method: 'GET', path }).catch(() => undefined);
  if (answer?.status !== 200) return false;
  return !(JSON.parse(answer.text) as { pending: boolean }).pending;
}
