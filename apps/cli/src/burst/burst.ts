import { randomBytes } from 'node:crypto';
import { UserError } from '../user-error.js';
import { createEntries, type Entries } from './entries.js';
import { Sample } from './sample.js';
import { type Load, sendLoad } from './send-load.js';
import { Tally } from './tally.js';
import type { Target } from './target.js';
import { type Stored, waitUntilStored } from './wait-until-stored.js';

export type BurstOptions = Load & {
  /** How many customers the entries are of. */
  customers: number;
  /** The customers are created first, so that all that is measured are updates. */
  updates: boolean;
  /** How long to wait for what was accepted to be stored; 0 does not look. */
  waitMs: number;
};

export type BurstResult = {
  url: string;
  run: string;
  sent: number;
  accepted: number;
  refused: number;
  unanswered: number;
  statuses: Record<string, number>;
  seconds: number;
  acceptedPerSecond: number;
  p50Ms: number;
  p99Ms: number;
  maxMs: number;
  /** Null where nothing was looked for. */
  stored: Stored | null;
  /** One to look at. */
  customerId: string | null;
  isStopped?: true;
};

export type Progress = Pick<BurstResult, 'sent' | 'acceptedPerSecond' | 'p50Ms' | 'p99Ms' | 'statuses'>;

const PROGRESS_INTERVAL_MS = 200;
const PREPARATION = { batch: 500, connections: 4 };

/** Sends a burst and says what became of it. @param signal ends it early, with what there is by then */
export async function burst(
  target: Target,
  { waitMs, updates, ...options }: BurstOptions,
  { onProgress, signal }: { onProgress: (progress: Progress) => void; signal: AbortSignal },
): Promise<BurstResult> {
  const run = randomBytes(4).toString('hex');
  const entries = createEntries({ run, customers: options.customers });
  if (updates) await createCustomers(target, entries, options.customers, signal);

  const tally = new Tally();
  const sample = new Sample(options.total);
  const startedAt = performance.now();
  const report = (): Progress => toProgress(tally, performance.now() - startedAt);
  const timer = setInterval(() => onProgress(report()), PROGRESS_INTERVAL_MS);
  try {
    const onAccepted = (n: number) => sample.add(n);
    await sendLoad(options, { target, entries, tally, onAccepted, signal });
  } finally {
    clearInterval(timer);
  }
  const seconds = (performance.now() - startedAt) / 1_000;
  const done = report();
  onProgress(done);

  const sampled = [...new Set(sample.numbers().map(entries.idOf))];
  const isWorthALook = waitMs > 0 && sampled.length > 0 && !signal.aborted;
  const stored = isWorthALook ? await waitUntilStored(target, sampled, { timeoutMs: waitMs, signal }) : null;
  const { accepted, refused, unanswered } = tally;
  return {
    url: target.url,
    run,
    ...done,
    accepted,
    refused,
    unanswered,
    seconds,
    maxMs: tally.latencies().maxMs,
    stored,
    customerId: sampled.at(-1) ?? null,
    ...(signal.aborted && { isStopped: true }),
  };
}

function toProgress(tally: Tally, elapsedMs: number): Progress {
  const { p50Ms, p99Ms } = tally.latencies();
  const acceptedPerSecond = elapsedMs > 0 ? (tally.accepted * 1_000) / elapsedMs : 0;
  return { sent: tally.total, acceptedPerSecond, p50Ms, p99Ms, statuses: tally.statuses };
}

/** @throws UserError where one of them is refused: what is measured would not be an update */
async function createCustomers(target: Target, entries: Entries, total: number, signal: AbortSignal): Promise<void> {
  const tally = new Tally();
  await sendLoad({ ...PREPARATION, total }, { target, entries, tally, signal });
  if (tally.accepted === total || signal.aborted) return;
  throw new UserError(`the customers to update could not be created: ${JSON.stringify(tally.statuses)}`);
}
