import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Pool } from 'undici';
import type { Random } from '../random.js';
import {
  type Answer,
  type Call,
  FIELD_SETS,
  isUndecided,
  type Ledger,
  parseCustomer,
  type SentEntry,
  toAnswers,
  toBatch,
  toCustomer,
  toOutcome,
  toSingle,
} from './ledger.js';

type ClientsOptions = {
  /** URLs of the ingresses. */
  urls: string[];
  /** API keys of the partners, in order. */
  apiKeys: string[];
  ledger: Ledger;
  random: Random;
  /** Entries to send per second, by all clients together. */
  rate: number;
  /** Number of clients that send an idempotency key with each request. */
  keyed: number;
  onUnexpected: (what: string) => void;
};

type Clients = {
  /** Makes the clients send as fast as they can. */
  hurry(): void;
  /** Resolves when every request in flight has an answer or has failed. */
  stop(): Promise<void>;
};

export const CLIENTS = 16;
const MAX_BURST = 24;
const TIMEOUT_MS = 4_000;
/** Per partner. */
const HOT_CUSTOMERS = 3;
/** These partners, the first ones, send most. */
const DOMINANT_PARTNERS = 3;
/** Percent of the entries. */
const PERCENT = { hot: 30, new: 35, erasing: 4, dominant: 60 };
/** Percent of the bursts. */
const PERCENT_BATCHED = 30;
/** Percent of the keyed requests that were accepted. */
const PERCENT_REPEATED = 25;

/**
 * Starts clients that send to all ingresses, in bursts of single requests or of one batch. Some customers appear once,
 * some often, a few all the time and through all ingresses. There are many partners, and a few send most of the
 * entries. A client without keys does not repeat a failed request; the customer's next entry is a new one. A client
 * with keys sends each request until it is decided, and some requests once more.
 */
export function startClients(options: ClientsOptions): Clients {
  const { urls, apiKeys, ledger, random, rate, keyed, onUnexpected } = options;
  const pools = urls.map(
    (url) => new Pool(url, { connections: CLIENTS, headersTimeout: TIMEOUT_MS, bodyTimeout: TIMEOUT_MS }),
  );
  let isStopping = false;
  let isHurrying = false;
  const customers = apiKeys.map(() => 0);
  let batches = 0;

  function drawPartner(): number {
    const last = random.chance(PERCENT.dominant) ? Math.min(DOMINANT_PARTNERS, apiKeys.length) : apiKeys.length;
    return random.between(1, last) - 1;
  }

  function drawCustomer(partner: number): string {
    const known = customers[partner] ?? 0;
    if (random.chance(PERCENT.hot)) return toCustomer(partner, `hot-${random.between(1, HOT_CUSTOMERS)}`);
    if (known > 0 && !random.chance(PERCENT.new)) return toCustomer(partner, `c-${random.between(1, known)}`);
    customers[partner] = known + 1;
    return toCustomer(partner, `c-${known + 1}`);
  }

  function drawEntry(partner: number, batch?: number): SentEntry {
    const erases = batch === undefined && random.chance(PERCENT.erasing);
    return ledger.open({
      customerId: drawCustomer(partner),
      erases,
      fields: erases ? [] : random.pick(FIELD_SETS),
      batch,
    });
  }

  async function sendBurst(size: number, isKeyed: boolean): Promise<void> {
    const send = isKeyed ? sendKeyed : sendOnce;
    const batch = random.chance(PERCENT_BATCHED) ? ++batches : undefined;
    const ofBatch = drawPartner();
    const entries = Array.from({ length: size }, () => drawEntry(batch === undefined ? drawPartner() : ofBatch, batch));
    if (batch === undefined) await Promise.all(entries.map((entry) => send([entry], toSingle(entry))));
    else await send(entries, toBatch(entries));
  }

  async function sendOnce(entries: SentEntry[], call: Call): Promise<void> {
    record(entries, await request(entries, call), 0);
  }

  async function sendKeyed(entries: SentEntry[], call: Call): Promise<void> {
    const key = randomUUID();
    const { answer, repeats } = await sendUntilDecided(() => request(entries, call, key));
    record(entries, answer, repeats);
    const isAccepted = answer !== undefined && answer.status < 300;
    if (isAccepted && random.chance(PERCENT_REPEATED)) await repeat(entries, call, key, answer);
  }

  /**
   * Sends an accepted request once more. If the response is stored, the ingress replays it and the repeat has no
   * effect. If the ingress could not store it, the repeat counts as a first request some time later.
   */
  async function repeat(entries: SentEntry[], call: Call, key: string, first: Answer): Promise<void> {
    const again = await request(entries, call, key);
    if (again?.isReplayed) {
      const isSame = again.status === first.status && again.text === first.text;
      for (const entry of entries) entry.isReplayed = true;
      if (!isSame) onUnexpected(`${entries[0]?.id} was answered ${first.status}, its repeat ${again.status}`);
    } else if (again?.status !== 409) {
      for (const entry of entries) entry.repeats = (entry.repeats ?? 0) + 1;
    }
  }

  /** Records the outcome; without an answer it stays unknown. */
  function record(entries: SentEntry[], answer: Answer | undefined, repeats: number): void {
    const answers = answer && toAnswers(answer, entries.length);
    for (const [i, entry] of entries.entries()) {
      if (repeats > 0) entry.repeats = repeats;
      if (answer?.isReplayed) entry.isReplayed = true;
      const own = answers?.[i] ?? answer;
      if (!own) continue;
      const outcome = toOutcome(entry, own);
      // An earlier attempt may have erased the customer, so a 404 after a repeat proves nothing.
      if (outcome) ledger.answer(entry, repeats > 0 && outcome === 'refused' ? 'unknown' : outcome, own.status);
      else onUnexpected(`${entry.id} was answered ${own.status}: ${own.text.slice(0, 200)}`);
    }
  }

  async function request([entry]: SentEntry[], call: Call, key?: string): Promise<Answer | undefined> {
    const { partner } = parseCustomer(entry?.customerId ?? '');
    try {
      const headers = {
        'x-api-key': apiKeys[partner] ?? '',
        'content-type': 'application/json',
        ...(key && { 'idempotency-key': key }),
      };
      const response = await random.pick(pools).request({ ...call, headers });
      const isReplayed = response.headers['idempotent-replayed'] === 'true';
      return { status: response.statusCode, text: await response.body.text(), isReplayed };
    } catch {
      return undefined;
    }
  }

  async function runClient(isKeyed: boolean): Promise<void> {
    while (!isStopping) {
      const size = random.between(1, MAX_BURST);
      await Promise.all([sendBurst(size, isKeyed), delay(isHurrying ? 0 : (size * CLIENTS * 1_000) / rate)]);
    }
  }

  const running = Promise.all(Array.from({ length: CLIENTS }, (_client, i) => runClient(i < keyed)));
  return {
    hurry() {
      isHurrying = true;
    },
    async stop() {
      isStopping = true;
      await running;
      await Promise.all(pools.map((pool) => pool.destroy()));
    },
  };
}

type DecidedRequest = {
  /** Undefined if the outcome is unknown. */
  answer: Answer | undefined;
  /** How many attempts before the answered one may have had an effect of their own, at any time. */
  repeats: number;
};

const MAX_ATTEMPTS = 8;
const PAUSE_MS = 1_000;

/** Sends a request with the same idempotency key until it is decided, as a partner does, at most eight times. */
export async function sendUntilDecided(
  send: () => Promise<Answer | undefined>,
  pauseMs: number = PAUSE_MS,
): Promise<DecidedRequest> {
  let open = 0;
  for (let attempt = 1; ; attempt++) {
    const answer = await send();
    // The replayed answer belongs to one of the open attempts.
    if (answer && !mustRetry(answer)) return { answer, repeats: answer.isReplayed ? Math.max(open - 1, 0) : open };
    if (mayHaveActed(answer)) open++;
    if (attempt === MAX_ATTEMPTS) return { answer: open > 0 ? undefined : answer, repeats: open };
    await delay(pauseMs);
  }
}

/** Whether a request with this answer may have had an unknown effect. */
function mayHaveActed(answer: Answer | undefined): boolean {
  if (!answer || answer.status === 207) return true;
  return answer.status === 503 && isUndecided(answer);
}

function mustRetry(answer: Answer): boolean {
  if (answer.status === 207) return toAnswers(answer, 0).some(({ status }) => status === 503);
  return answer.status === 503 || answer.status === 409;
}

type Options = {
  clients: Clients;
  counts: Ledger['counts'];
  /** Number of entries to acknowledge. */
  entries: number;
  onWait: () => void;
  signal: AbortSignal;
};

const INTERVAL_MS = 500;
const MAX_STANDSTILL_MS = 180_000;

/**
 * Makes the clients send as fast as they can until `entries` are acknowledged.
 * @throws Error if no entry is acknowledged for three minutes
 */
export async function sendRemaining({ clients, counts, entries, onWait, signal }: Options): Promise<void> {
  clients.hurry();
  let known = { acknowledged: -1, at: 0 };
  while (counts.acknowledged < entries && !signal.aborted) {
    const now = performance.now();
    if (counts.acknowledged > known.acknowledged) known = { acknowledged: counts.acknowledged, at: now };
    else if (now - known.at > MAX_STANDSTILL_MS) throw new Error('no entry was acknowledged for three minutes');
    onWait();
    await delay(INTERVAL_MS);
  }
}
