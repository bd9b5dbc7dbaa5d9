import { setTimeout as delay } from 'node:timers/promises';
import type { Clients } from './clients.js';
import type { Ledger } from './ledger.js';

type Options = {
  clients: Clients;
  counts: Ledger['counts'];
  /** To be acknowledged. */
  entries: number;
  onWait: () => void;
  signal: AbortSignal;
};

const INTERVAL_MS = 500;
const MAX_STANDSTILL_MS = 180_000;

/** Has the clients send as fast as they can, until so many are acknowledged. @throws Error where no more are for three minutes */
export async function sendRest({ clients, counts, entries, onWait, signal }: Options): Promise<void> {
  clients.hurry();
  let known = { acknowledged: -1, at: 0 };
  while (counts.acknowledged < entries && !signal.aborted) {
    const now = performance.now();
    if (counts.acknowledged > known.acknowledged) known = { acknowledged: counts.acknowledged, at: now };
    else if (now - known.at > MAX_STANDSTILL_MS) throw new Error('nothing is acknowledged any more');
    onWait();
    await delay(INTERVAL_MS);
  }
}
