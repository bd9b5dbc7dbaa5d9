import { expect } from '@jest/globals';
import { Fault } from '@opm/contract';
import { shardOf } from '@opm/queue';
import { type EntryInput, toText as toEntryText } from '../src/ingest/call.js';
import { BATCH, type Keyed, toKeyed as toKeyedBy, toOwnId } from '../src/ingest/idempotency.js';
import type { Answer, Facts, Harness, Incident } from './repeats-harness.js';

/** A keyed request. A post or an erasure has one customer, a batch several; a customer may occur twice. */
export type Request = { what: 'post' | 'erase' | 'batch'; customers: number[] };
type Trouble = Omit<Incident, 'meanwhile'> & { meanwhile?: Action[] };
/** `keyed` sends the request `key`: the first time, or again. `twice`: in one chunk; `both`: through both ingresses. */
export type Action =
  | { do: 'post' | 'erase'; customer: number; ingress: number; troubles?: Trouble[] }
  | { do: 'keyed'; key: number; ingress: number; how?: 'twice' | 'both'; tokens?: number; troubles?: Trouble[] }
  | { do: 'drain'; which: 'all' | 'first' | 'last' }
  | { do: 'sweep' };

const OPERATIONS = { post: 'POST /entry', erase: 'DELETE /entry', batch: BATCH };
/** The shards of the customers and of the keys, if there are that many. */
const CUSTOMERS = [0, 1, 1];
const KEYS = [0, 1, 2];
const MAX_REPEATS = 5;

const toKeyed = (projectId: number, key: string, operation: string, entries: EntryInput[]) =>
  toKeyedBy(projectId, key, operation, entries.map(toEntryText));

type Place = Pick<Harness, 'projectId' | 'shards'>;
const toCustomerId = ({ projectId, shards }: Place, name: string, shard: number) =>
  find(name, (customerId) => shardOf(projectId, customerId, shards) === shard % shards);
const toKeyText = ({ projectId, shards }: Place, name: string, shard: number) =>
  find(
    name,
    (key) => shardOf(projectId, toOwnId(toKeyedBy(projectId, key, '', []).id, shards), shards) === shard % shards,
  );

function find(name: string, isGood: (text: string) => boolean): string {
  for (let n = 0; ; n++) if (isGood(`${name} ${n}`)) return `${name} ${n}`;
}

/** Answers as a partner sees them: an entry's status, `*` for a replay, `-` without an answer. */
const toText = (entries: EntryInput[], answers: Answer[]) =>
  answers
    .map((answer, i) => {
      if (!answer) return '-';
      if (answer instanceof Fault) return answer.code === 'IDEMPOTENCY_KEY_REUSED' ? 422 : 503;
      const { existed, isReplayed } = answer;
      return `${existed ? 202 : entries[i]?.erase ? 404 : 201}${isReplayed ? '*' : ''}`;
    })
    .join(' ');

let histories = 0;

/** Runs the actions with new customers and keys, then repeats what has no answer yet, and checks the stores. */
export async function runHistory(harness: Harness, requests: Request[], actions: Action[]): Promise<string[]> {
  const { projectId, shards, store } = harness;
  const history = `${++histories}`;
  const facts = harness.begin();
  const answered: string[] = [];
  let values = 0;
  let isCalm = true;

  const customerIds = CUSTOMERS.map((shard, i) => toCustomerId(harness, `${history} ${'abc'[i]}`, shard));
  const keyTexts = KEYS.map((shard, i) => toKeyText(harness, `${history} key ${i}`, shard));
  const keyed = requests.map((request, i) => {
    const entries = request.customers.map((customer) => toEntry(request.what, customer));
    return { keyed: toKeyed(projectId, keyTexts[i] as string, OPERATIONS[request.what], entries), entries };
  });

  function toEntry(what: Request['what'], customer: number): EntryInput {
    const customerId = customerIds[customer] as string;
    const value = `value ${++values}`;
    // Some entries leave a field alone, so that a row is made of several entries.
    const fields = [{ email: value }, { phone: value }, { email: value, phone: value }][values % 3] as object;
    return harness.track(what === 'erase' ? { customerId, erase: true } : { customerId, fields });
  }
  const factsOf = (entry: EntryInput) => facts.get(entry) as Facts;

  async function send(action: Exclude<Action, { do: 'drain' | 'sweep' }>, isNested: boolean): Promise<void> {
    const { ingress, troubles = [] } = action;
    const request =
      action.do === 'keyed' ? keyed[action.key % keyed.length] : { entries: [toEntry(action.do, action.customer)] };
    if (!request) return;
    const { entries } = request;
    const [how, tokens] = action.do === 'keyed' ? [action.how, action.tokens] : [];
    const incidents = troubles.map(({ meanwhile = [], ...trouble }): Incident => {
      // An enqueue follows its admission within 30 s, and younger claims are not swept.
      const maySweep = (trouble.at === 'close' || trouble.at === 'release') && entries.length === 1 && !how;
      const due = meanwhile.filter((it) => it.do !== 'sweep' || maySweep);
      return {
        ...trouble,
        meanwhile: () => {
          isCalm = false;
          return run(due, true);
        },
      };
    });
    const closed = entries.map((entry) => factsOf(entry).closed);
    const isReplay = !isNested && incidents.length === 0 && !closed.includes(undefined);
    const mayClose = !troubles.some(({ at, fate }) => at === 'close' && fate);
    const before = isReplay ? await harness.readState() : undefined;
    const attempts = [harness.createAttempt(ingress, incidents, tokens)];
    const [first] = attempts as [(typeof attempts)[number]];
    if (how === 'both') attempts.push(harness.createAttempt(1 - ingress, []));
    if (how === 'twice') attempts.push(first);
    const texts = await Promise.all(
      attempts.map(async (attempt) => {
        const answers = await attempt.send((request as { keyed?: Keyed }).keyed, entries);
        for (const [i, answer] of answers.entries()) {
          if (answer instanceof Fault) expect(answer.code).toMatch(/^(QUEUE_UNAVAILABLE|OVERLOADED)$/);
          if (isReplay || (closed[i] !== undefined && answer && !(answer instanceof Fault))) {
            expect(answer).toEqual({ existed: closed[i], version: expect.any(Number), isReplayed: true });
          }
          if (!answer || answer instanceof Fault) continue;
          const one = factsOf(entries[i] as EntryInput);
          // A repeat gets this answer. Of two attempts at once, the one that closes first may not know of a 201 yet.
          const mayDiffer = how === 'both' && answer.existed;
          if (mayClose && one.closed !== undefined && !mayDiffer) expect(answer.existed).toBe(one.closed);
          expect(answer.version).toBe(one.version);
          one.answers.push(answer);
        }
        return toText(entries, answers);
      }),
    );
    answered.push(...texts);
    if (before) expect(await harness.readState()).toEqual(before);
  }

  async function run(some: Action[], isNested = false): Promise<void> {
    for (const action of some) {
      if (action.do === 'drain') await harness.drain(action.which);
      else if (action.do === 'sweep') await harness.clear();
      else await send(action, isNested);
      if (!isNested) await checkClaims();
    }
  }

  async function repeatUntil(isDone: (facts: Facts) => boolean): Promise<void> {
    for (const [key, { entries }] of keyed.entries()) {
      for (let n = 0; n < MAX_REPEATS && !entries.every((entry) => isDone(factsOf(entry))); n++) {
        await send({ do: 'keyed', key, ingress: n % 2 }, false);
      }
      for (const entry of entries) expect(isDone(factsOf(entry))).toBe(true);
    }
  }

  const factsOfCustomer = (customerId: string) =>
    [...facts.values()]
      .filter(({ entry, version }) => entry.customerId === customerId && version > 0)
      .sort((a, b) => a.version - b.version);
  const readClaim = async (i: number) =>
    (await harness.readClaims([customerIds[i] as string], (CUSTOMERS[i] as number) % shards))[0];

  /**
   * What is acknowledged but not stored yet can be seen, unless a repeat failed: the newest erasure, and the newest
   * entry. Of several repeated entries, the one that is repeated last may be older and settle its claim first.
   */
  async function checkClaims(): Promise<void> {
    for (const [i, customerId] of customerIds.entries()) {
      if (harness.withFailedRepeats.has(customerId)) continue;
      const entries = factsOfCustomer(customerId);
      const areSure = (harness.repeatsOf.get(customerId)?.size ?? 0) < 2 ? [entries] : [];
      for (const some of [...areSure, entries.filter(({ entry }) => entry.erase)]) {
        const isSure = some.every(({ answers }) => answers.length > 0);
        if (isSure && some.at(-1)?.isStored === false) expect(await readClaim(i)).toBeDefined();
      }
    }
  }

  /** Another request under each key, of any kind and shard, is refused and changes nothing. */
  async function checkReuse(): Promise<void> {
    const before = await harness.readState();
    for (const key of keyed.keys()) {
      for (const [customer, what] of (['post', 'batch', 'erase'] as const).entries()) {
        const other = toEntry(what, customer);
        const own = { keyed: toKeyed(projectId, keyTexts[key] as string, OPERATIONS[what], [other]), entries: [other] };
        if (own.keyed.fingerprint === keyed[key]?.keyed.fingerprint) continue; // the same erasure
        const answers = await harness.createAttempt(0, []).send(own.keyed, own.entries);
        expect(answers).toEqual([expect.objectContaining({ code: 'IDEMPOTENCY_KEY_REUSED' })]);
      }
    }
    expect(await harness.readState()).toEqual(before);
  }

  async function checkStores(): Promise<void> {
    await harness.drain('all');
    await harness.untilIdle();
    if (isCalm) expect(await harness.countWaiting()).toBe(0);
    await harness.clear();
    expect(await harness.countWaiting()).toBe(0);
    for (const [i, customerId] of customerIds.entries()) {
      expect(await readClaim(i)).toBeUndefined();
      const own = factsOfCustomer(customerId);
      for (const [at, one] of own.entries()) {
        for (const later of own.slice(at)) expect(later.admitted).toBeGreaterThan(one.asked);
      }
      checkVerdicts(own, isCalm);
      const row = await store.customers.find(projectId, customerId);
      const stored = row && { email: row.email ?? undefined, phone: row.phone ?? undefined };
      expect(stored).toEqual(toRow(own));
    }
  }

  await run(actions);
  await repeatUntil(({ answers }) => answers.length > 0);
  const result = [...answered];
  await repeatUntil(({ closed }) => closed !== undefined);
  await checkStores();
  for (const key of keyed.keys()) await send({ do: 'keyed', key, ingress: 1 }, false); // all are replays
  await checkReuse();
  return result;
}

/** Sends two requests with one key at once, each through an ingress. The second has its customer in another shard. */
export async function raceUnderOneKey(harness: Harness): Promise<string[]> {
  const { projectId } = harness;
  harness.begin();
  const name = `race ${++histories}`;
  const key = toKeyText(harness, name, 0);
  const answers = [0, 1].map(async (place) => {
    const customerId = toCustomerId(harness, `${name} ${place}`, place);
    const entries = [harness.track({ customerId, fields: { email: name } })];
    const keyed = toKeyed(projectId, key, OPERATIONS.post, entries);
    return toText(entries, await harness.createAttempt(place, []).send(keyed, entries));
  });
  return (await Promise.all(answers)).sort();
}

/** Repeats an answered request in one chunk with a new entry. @returns both answers, and the number of admissions */
export async function repeatBesideNew(harness: Harness): Promise<{ answers: string[]; admissions: number }> {
  const { projectId } = harness;
  harness.begin();
  const name = `beside ${++histories}`;
  const [old, fresh] = [0, 1].map((n) => {
    return [harness.track({ customerId: toCustomerId(harness, `${name} ${n}`, 0), fields: { email: name } })];
  }) as [EntryInput[], EntryInput[]];
  const keyed = toKeyed(projectId, toKeyText(harness, name, 0), OPERATIONS.post, old);
  await harness.createAttempt(0, []).send(keyed, old);
  const attempt = harness.createAttempt(1, []);
  const answers = await Promise.all([attempt.send(keyed, old), attempt.send(undefined, fresh)]);
  return { answers: answers.map((answer) => toText(fresh, answer)), admissions: attempt.admissions() };
}

/** The row that results from the queued entries in order of their first admission. */
function toRow(own: Facts[]): { email?: string; phone?: string } | undefined {
  let row: ReturnType<typeof toRow>;
  for (const { entry, isQueued, answers } of own) {
    if (answers.length > 0) expect(isQueued).toBe(true);
    if (isQueued) row = entry.erase ? undefined : { ...row, ...entry.fields };
  }
  return row;
}

/** In each life of the customer, at most one entry may be the first; exactly one if nothing failed. */
function checkVerdicts(own: Facts[], isCalm: boolean): void {
  let created = 0;
  let length = 0;
  for (const { entry, answers } of own) {
    const isFirst = answers.some(({ existed }) => !existed);
    if (entry.erase) {
      if (isCalm) expect(isFirst).toBe(length === 0);
      [created, length] = [0, 0];
      continue;
    }
    length++;
    if (isFirst) created++;
    expect(created).toBeLessThanOrEqual(1);
    if (isCalm) expect(created).toBe(1);
  }
}
