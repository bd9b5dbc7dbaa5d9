import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { UserError } from '../user-error.js';
import { createEntries, type Entries, type Load, sendLoad, Tally } from './send-load.js';
import type { Target } from './target.js';

type BurstOptions = Load & {
  /** Number of customers that the entries are spread over. */
  customers: number;
  /** Creates the customers first, so that every measured entry is an update. */
  updates: boolean;
  /** How long to wait for accepted entries to be stored. 0 skips the check. */
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
  /** Null if the check was skipped. */
  stored: Stored | null;
  /** A customer whose entry was accepted, to look up by hand. */
  customerId: string | null;
  isStopped?: true;
};

export type Progress = Pick<BurstResult, 'sent' | 'acceptedPerSecond' | 'p50Ms' | 'p99Ms' | 'statuses'>;

const PROGRESS_INTERVAL_MS = 200;
const PREPARATION = { batch: 500, connections: 4 };

/**
 * Sends a burst and measures it.
 * @param signal ends it early, with the result so far
 * @throws UserError if the key must not read, because the check at the end reads customers
 */
export async function burst(
  target: Target,
  { waitMs, updates, ...options }: BurstOptions,
  { onProgress, signal }: { onProgress: (progress: Progress) => void; signal: AbortSignal },
): Promise<BurstResult> {
  const run = randomBytes(4).toString('hex');
  const entries = createEntries({ run, customers: options.customers });
  if (waitMs > 0) await assertMayRead(target, entries.idOf(0));
  if (updates) await createCustomers(target, entries, options.customers, signal);

  const tally = new Tally();
  const sample = new Sample(Math.min(options.total, options.customers));
  const startedAt = performance.now();
  const report = (): Progress => toProgress(tally, performance.now() - startedAt);
  const timer = setInterval(() => onProgress(report()), PROGRESS_INTERVAL_MS);
  try {
    const onAccepted = (n: number) => sample.add(n % options.customers);
    await sendLoad(options, { target, entries, tally, onAccepted, signal });
  } finally {
    clearInterval(timer);
  }
  const seconds = (performance.now() - startedAt) / 1_000;
  const done = report();
  onProgress(done);

  const sampled = sample.numbers().map(entries.idOf);
  const checksStored = waitMs > 0 && sampled.length > 0 && !signal.aborted;
  const stored = checksStored ? await waitUntilStored(target, sampled, { timeoutMs: waitMs, signal }) : null;
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

/** @throws UserError if a customer is not accepted, because its measured entry would not be an update */
async function createCustomers(target: Target, entries: Entries, total: number, signal: AbortSignal): Promise<void> {
  const tally = new Tally();
  await sendLoad({ ...PREPARATION, total }, { target, entries, tally, signal });
  if (tally.accepted === total || signal.aborted) return;
  throw new UserError(`cannot create the customers to update; answers: ${JSON.stringify(tally.statuses)}`);
}

const SIZE = 100;

/** An even sample of about 100 of the numbers below `total`, and the number that was added last. */
class Sample {
  readonly #step: number;
  readonly #kept = new Set<number>();
  #last: number | undefined;

  constructor(total: number) {
    this.#step = Math.ceil(total / SIZE);
  }

  add(n: number): void {
    if (n % this.#step === 0) this.#kept.add(n);
    this.#last = n;
  }

  numbers(): number[] {
    return [...new Set([...this.#kept, ...(this.#last === undefined ? [] : [this.#last])])];
  }
}

type Stored = {
  /** Number of customers that were read back. */
  sampled: number;
  /** Ids of the sampled customers that were not stored in time. */
  missing: string[];
  seconds: number;
};

const POLL_INTERVAL_MS = 100;

/** Reads the customers back until none has a pending entry. */
async function waitUntilStored(
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

/** @throws UserError if the key has no scope `read` */
async function assertMayRead(target: Target, customerId: string): Promise<void> {
  const answer = await read(target, customerId);
  if (answer?.status !== 403) return;
  throw new UserError(
    'the API key must not read, so nothing can be read back: use a key with the scope read, or --wait 0s',
    'usage',
  );
}

/** Also returns false if there is no answer: the next poll may get one. */
async function isStored(target: Target, customerId: string): Promise<boolean> {
  const answer = await read(target, customerId);
  if (answer?.status !== 200) return false;
  return !(JSON.parse(answer.text) as { pending: boolean }).pending;
}

const read = (target: Target, customerId: string) =>
  target.request({ method: 'GET', path: `/entry/${encodeURIComponent(customerId)}` }).catch(() => undefined);
