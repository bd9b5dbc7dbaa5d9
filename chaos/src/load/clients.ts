import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Pool } from 'undici';
import type { Random } from '../random.js';
import { type Answer, toAnswers, toOutcome } from './answer.js';
import { type Call, toBatch, toSingle } from './call.js';
import { FIELD_SETS, type Ledger, parseCustomer, type Sent, toCustomer } from './ledger.js';
import { sendUntilDecided } from './send-until-decided.js';

export type ClientsOptions = {
  /** Of the ingresses. */
  urls: string[];
  /** Of the partners, in order. */
  apiKeys: string[];
  ledger: Ledger;
  random: Random;
  /** Entries per second that they aim at. */
  rate: number;
  /** How many of them give each request an idempotency key. */
  keyed: number;
  onUnexpected: (what: string) => void;
};

export type Clients = {
  /** From now on as fast as it goes. */
  hurry(): void;
  /** Resolves when all requests under way have an answer or none to come. */
  stop(): Promise<void>;
};

export const CLIENTS = 16;
const MAX_BURST = 24;
const TIMEOUT_MS = 4_000;
/** Of each partner. */
const HOT_CUSTOMERS = 3;
/** The first ones, who send most. */
const DOMINANT_PARTNERS = 3;
/** Of 100 entries. */
const PERCENT = { hot: 30, new: 35, erasing: 4, dominant: 60 };
/** Of 100 bursts. */
const PERCENT_BATCHED = 30;
/** Of 100 keyed requests that are answered. */
const PERCENT_REPEATED = 25;

/**
 * Senders that post to all ingresses at once, in bursts of single requests or of one batch: some customers once, some
 * often, a few all the time and from everywhere, of many partners, a few of whom send most. What fails is not sent again; the customer's next entry is another one.
 * Only those who give keys send a request until it is decided, and some of them once more.
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

  function drawEntry(partner: number, batch?: number): Sent {
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

  async function sendOnce(entries: Sent[], call: Call): Promise<void> {
    note(entries, await request(entries, call), 0);
  }

  async function sendKeyed(entries: Sent[], call: Call): Promise<void> {
    const key = randomUUID();
    const { answer, repeats } = await sendUntilDecided(() => request(entries, call, key));
    note(entries, answer, repeats);
    const isAccepted = answer !== undefined && answer.status < 300;
    if (isAccepted && random.chance(PERCENT_REPEATED)) await repeat(entries, call, key, answer);
  }

  /** What is kept is told again, and has no effect. What could not be kept counts as a first request some time later. */
  async function repeat(entries: Sent[], call: Call, key: string, first: Answer): Promise<void> {
    const again = await request(entries, call, key);
    if (again?.isReplayed) {
      const isSame = again.status === first.status && again.text === first.text;
      for (const entry of entries) entry.isReplayed = true;
      if (!isSame) onUnexpected(`${entries[0]?.id} was answered ${first.status}, and then ${again.status}`);
    } else if (again?.status !== 409) {
      for (const entry of entries) entry.repeats = (entry.repeats ?? 0) + 1;
    }
  }

  /** Without an answer nobody knows. */
  function note(entries: Sent[], answer: Answer | undefined, repeats: number): void {
    const answers = answer && toAnswers(answer, entries.length);
    for (const [i, entry] of entries.entries()) {
      if (repeats > 0) entry.repeats = repeats;
      if (answer?.isReplayed) entry.isReplayed = true;
      const own = answers?.[i] ?? answer;
      if (!own) continue;
      const outcome = toOutcome(entry, own);
      // A 404 may be told because the erasure that was sent before did what it should.
      if (outcome) ledger.answer(entry, repeats > 0 && outcome === 'refused' ? 'unknown' : outcome, own.status);
      else onUnexpected(`${entry.id} was answered ${own.status}: ${own.text.slice(0, 200)}`);
    }
  }

  async function request([entry]: Sent[], call: Call, key?: string): Promise<Answer | undefined> {
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
