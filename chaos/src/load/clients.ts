import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Pool } from 'undici';
import type { Random } from '../random.js';
import {
  type Answer,
  addReceipts,
  type Call,
  FIELD_SETS,
  hasValueOf,
  isAccepted,
  isReplayOf,
  type Ledger,
  mayHaveActed,
  parseCustomer,
  type SentEntry,
  sendUntilDecided,
  toAnswers,
  toBatch,
  toCustomer,
  toOutcome,
  toReading,
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
/** Percent of the keyed requests that were accepted: the client behaves as if it had not got the answer. */
const PERCENT_FORGOTTEN = 10;
/** Percent of the keyed requests whose answer was lost. */
const PERCENT_OVERTAKEN = 50;
/** Entries of a request that newer ones overtake. */
const MAX_OVERTAKEN = 3;

/**
 * Starts clients that send to all ingresses, in bursts of single requests or of one batch. Some customers appear once,
 * some often, a few all the time and through all ingresses. There are many partners, and a few send most of the
 * entries. A client without keys does not repeat a failed request; the customer's next entry is a new one. A client
 * with keys sends each request until it is decided, and some requests once more. After a lost answer it asks the other
 * ingress, sometimes only when a newer entry about the same customer is acknowledged.
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

  async function sendOnce(entries: SentEntry[], call: Call, pool = random.pick(pools)): Promise<void> {
    record(entries, await request(entries, call, { pool }));
  }

  async function sendKeyed(entries: SentEntry[], call: Call): Promise<void> {
    const key = randomUUID();
    const { losses } = ledger;
    let pool = random.pick(pools);
    let isOvertaken = false;
    let forgotten: Answer | undefined;
    let isUndecidedSince = false;
    const { answer, open } = await sendUntilDecided(
      async () => {
        const own = await request(entries, call, { key, pool });
        if (forgotten) isUndecidedSince ||= mayHaveActed(own);
        if (forgotten || !own || !isAccepted(own) || !random.chance(PERCENT_FORGOTTEN)) return own;
        forgotten = own;
        for (const entry of entries) entry.knownAt = performance.now();
        return undefined;
      },
      async (isLost) => {
        await delay(PAUSE_MS);
        if (!isLost) return;
        pool = pools.find((other) => other !== pool) ?? pool;
        if (isOvertaken || !random.chance(PERCENT_OVERTAKEN)) return;
        isOvertaken = true;
        for (const entry of entries.slice(0, MAX_OVERTAKEN)) await overtake(entry, pool);
      },
    );
    for (const entry of entries) {
      if (open > 0) entry.open = open;
      if (open > 0 && ledger.hasLost(losses)) entry.repeats = open;
    }
    record(entries, answer ?? forgotten);
    const isOpen = open > (forgotten ? 1 : 0);
    if (forgotten) compare(entries, forgotten, answer, isOpen, isUndecidedSince);
    if (!answer || !isAccepted(answer) || !random.chance(PERCENT_REPEATED)) return;
    const again = await request(entries, call, { key, pool: random.pick(pools) });
    if (ledger.hasLost(losses) && !again?.isReplayed) {
      for (const entry of entries) entry.repeats = (entry.repeats ?? 0) + 1;
    }
    compare(entries, answer, again, isOpen);
  }

  /** Sends a newer entry about the customer. If the row has a value of the older one, that has its version. */
  async function overtake(older: SentEntry, pool: Pool): Promise<void> {
    const row = await request([older], toReading(older), { pool });
    if (row && hasValueOf(older, row)) older.knownAt ??= performance.now();
    const newer = ledger.open({ customerId: older.customerId, erases: false, fields: random.pick(FIELD_SETS) });
    await sendOnce([newer], toSingle(newer), pool);
    if (newer.outcome === 'acknowledged') older.overtakenBy = newer.id;
  }

  type Compared = [
    entries: SentEntry[],
    first: Answer,
    again: Answer | undefined,
    isOpen: boolean,
    isUndecided?: boolean,
  ];

  /**
   * Compares two answers to an accepted request. The second one should be a replay. If an ingress could not store the
   * verdicts, the repeat is judged again: a 201 may become a 202. `isOpen`: another attempt had no answer;
   * `isUndecided`: one between the two, so the second answer may be the replay of its verdict.
   */
  function compare(...[entries, first, again, isOpen, isUndecided]: Compared): void {
    if (again?.isReplayed && !isUndecided && !isReplayOf(first, again, isOpen))
      onUnexpected(`${entries[0]?.id} was answered ${first.status}, its repeat ${again.status}`);
    for (const [i, entry] of entries.entries()) {
      if (again?.isReplayed) entry.isReplayed = true;
      for (const answers of [first, again]) {
        const own = answers && toAnswers(answers, entries.length)[i];
        const outcome = own && toOutcome(entry, own);
        if (own && !outcome) onUnexpected(`the repeat of ${entry.id} was answered ${own.status}`);
        if (outcome === 'acknowledged') ledger.answerAgain(entry, own?.status ?? 0);
      }
    }
  }

  /** Records the outcome; without an answer it stays unknown. */
  function record(entries: SentEntry[], answer: Answer | undefined): void {
    const answers = answer && toAnswers(answer, entries.length);
    for (const [i, entry] of entries.entries()) {
      if (answer?.isReplayed) entry.isReplayed = true;
      const own = answers?.[i] ?? answer;
      if (!own) continue;
      const outcome = toOutcome(entry, own);
      if (outcome === 'acknowledged' && !own.receipt) onUnexpected(`${entry.id} was acknowledged without a receipt`);
      // An earlier attempt may have been accepted, so a refusal of a repeat proves nothing.
      if (outcome) ledger.answer(entry, entry.open && outcome === 'refused' ? 'unknown' : outcome, own.status);
      else onUnexpected(`${entry.id} was answered ${own.status}: ${own.text.slice(0, 200)}`);
    }
  }

  async function request(entries: SentEntry[], call: Call, way: Way): Promise<Answer | undefined> {
    const { partner } = parseCustomer(entries[0]?.customerId ?? '');
    try {
      const headers = {
        'x-api-key': apiKeys[partner] ?? '',
        'content-type': 'application/json',
        ...(way.key && { 'idempotency-key': way.key }),
      };
      const response = await way.pool.request({ ...call, headers });
      const isReplayed = response.headers['idempotent-replayed'] === 'true';
      const receipt = response.headers.receipt as string | undefined;
      const answer = { status: response.statusCode, text: await response.body.text(), isReplayed, receipt };
      addReceipts(entries, toAnswers(answer, entries.length));
      return answer;
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

/** The pool of an ingress, and the idempotency key, if any. */
type Way = { pool: Pool; key?: string };

const PAUSE_MS = 1_000;

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
