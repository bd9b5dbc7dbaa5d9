import { hash } from 'node:crypto';
import { Fault } from '@opm/contract';
import { GroupCommit, withTimeout } from '@opm/core';
import { type EntryQueue, type KeyedRequest, type PartRecord, parsePart, shardOf } from '@opm/queue';
import { createThrottledWarning, type Logger } from '@opm/runtime';
import type { TimeBudget } from '../config.js';
import { createToFault, type OnShed, shed } from '../guards/overload.js';
import type { RecordLimit } from '../guards/rate-limiter.js';
import type { Sender } from '../http/request-context.js';
import {
  AbandonedFault,
  type AcceptPart,
  type EntryInput,
  type PartInput,
  type Results,
  toReplayed,
  type Verdict,
} from './call.js';

/**
 * The request that an idempotency key stands for. A request that is not a batch has one entry, and one part with the
 * request's own id.
 */
export type Keyed = KeyedRequest & { isBatch: boolean };

/**
 * Accepts entries of a keyed request, at most as many as a chunk holds. `first` is the place of the first one in the
 * request. Resolves with one result per entry; undefined for entries beyond the rate limit.
 * @throws Fault IDEMPOTENCY_KEY_REUSED, TOO_MANY_IDEMPOTENCY_KEYS, OVERLOADED, or QUEUE_UNAVAILABLE
 */
export type AcceptKeyed = (sender: Sender, keyed: Keyed, entries: EntryInput[], first: number) => Promise<Results>;

type Deps = {
  idempotency: Pick<EntryQueue['idempotency'], 'remember' | 'read'>;
  recordLimit: RecordLimit;
  acceptPart: AcceptPart;
  /** Returns how many entries, counted from the first, may be accepted under the rate limit. */
  takeTokens: (sender: Sender, entries: number) => number | Promise<number>;
  shards: number;
  /** Maximum entries in a call. */
  groupSize: number;
  budget: Pick<TimeBudget, 'turnMs' | 'workMs'>;
  /** Maximum calls that wait for the store. */
  maxPending: number;
  onShed: OnShed;
  logger: Logger;
};

const isVerdict = (result: Results[number]): result is Verdict => result !== undefined && 'existed' in result;

/** A call. `first`: the place of its first entry in the request. `results`: one per entry, set when they are known. */
type Attempt = { sender: Sender; keyed: Keyed; first: number; results: Results };
/** An entry and its index in the call. */
type Item = { entry: EntryInput; index: number };
type Part = { shard: number; items: Item[] };

const MAX_REQUESTS = 200;
const MAX_IN_FLIGHT_PER_SHARD = 4;

/**
 * Splits the entries of a call into parts, one per shard. Each part is admitted and answered once.
 *
 * The key's own shard stores the fingerprint of the whole request; if a single entry has that shard, its part does.
 * Records are read before the admission only if the project has a rate limit, to save its tokens, or has too many
 * records.
 */
export function createAcceptKeyed(deps: Deps): AcceptKeyed {
  const { idempotency, recordLimit, acceptPart, takeTokens, shards, groupSize, budget } = deps;
  const { maxPending, onShed, logger } = deps;
  const toFault = createToFault(createThrottledWarning(logger, 'could not read idempotency keys; answering 503'));
  const warnFull = createThrottledWarning(
    logger,
    'idempotency keys of a project reached their limit; new ones get 429 until some expire (within 24 h)',
  );

  const createBulkCalls = <T extends { projectId: number }>(
    call: (shard: number, items: T[]) => Promise<(PartRecord | undefined)[]>,
  ) =>
    new GroupCommit<number, T, PartRecord | undefined>({
      commit: (shard, items) => withTimeout(call(shard, items), budget.workMs).catch(refuseAll),
      sourceOf: ({ projectId }) => projectId,
      maxBatch: MAX_REQUESTS,
      maxInFlight: MAX_IN_FLIGHT_PER_SHARD * shards,
      maxInFlightPerPartition: MAX_IN_FLIGHT_PER_SHARD,
      expiry: { maxWaitMs: budget.turnMs, toError: () => shed(onShed, 'waited') },
    });
  const remembering = createBulkCalls(idempotency.remember);
  const reading = createBulkCalls<Pick<KeyedRequest, 'id' | 'projectId'>>((shard, requests) =>
    idempotency.read(
      shard,
      requests.map(({ id }) => id),
    ),
  );
  /** Parts in flight, by id. */
  const underWay = new Map<string, { fingerprint: string; results: Promise<Results> }>();

  function refuseAll(error: Error): never {
    throw toFault(error);
  }

  function refuseNewKey(projectId: number): Fault {
    warnFull(new Error(`project ${projectId} reached its limit of idempotency keys`));
    return shed(onShed, 'idempotency-keys');
  }

  /** The id of the part that begins at the item. */
  const idOf = ({ keyed: { id, isBatch }, first }: Attempt, { index }: Item) =>
    isBatch ? toId(`${id}:${groupSize}:${first + index}`) : id;
  const shardOfKey = ({ projectId, id }: Keyed) => shardOf(projectId, id, shards);

  function toParts({ projectId }: Keyed, items: Item[]): Part[] {
    const parts = new Map<number, Part>();
    for (const item of items) {
      const shard = shardOf(projectId, item.entry.customerId, shards);
      const part = parts.get(shard);
      if (part) part.items.push(item);
      else parts.set(shard, { shard, items: [item] });
    }
    return [...parts.values()];
  }

  /** @throws Fault IDEMPOTENCY_KEY_REUSED if the record is of another request */
  function checkSame<T extends PartRecord | undefined>(record: T, { fingerprint }: Keyed): T {
    if (record && record.fingerprint !== fingerprint) throw new Fault('IDEMPOTENCY_KEY_REUSED');
    return record;
  }

  /** Accepts a request with a single entry, the usual case, without the steps that only batches need. */
  function acceptSingle(sender: Sender, keyed: Keyed, entry: EntryInput): Promise<Results> {
    const { id, fingerprint, projectId } = keyed;
    const shard = shardOf(projectId, entry.customerId, shards);
    const part = { id, fingerprint, entries: [entry], bytes: sender.bodyBytes || undefined };
    if (shard === shardOfKey(keyed)) return acceptOnce(sender, keyed, shard, part);
    return rememberKey(keyed).then(() => acceptOnce(sender, keyed, shard, part));
  }

  /**
   * Reads the records if the project has a rate limit or may have too many records. Sets the known results, and takes
   * tokens for entries without a record.
   * @returns the parts left to accept, and whether the key must be remembered first
   */
  async function leaveOutKnown(attempt: Attempt, parts: Part[]): Promise<{ parts: Part[]; isNewKey: boolean }> {
    const { sender, keyed, first } = attempt;
    const isKeyInPart = !keyed.isBatch && parts[0]?.shard === shardOfKey(keyed);
    let isNewKey = first === 0 && !isKeyInPart;
    const isFull = first === 0 && (await isRecordLimitReached(keyed, parts)); // a batch that has begun may finish
    if (!sender.limit && !isFull) return { parts, isNewKey };
    if (reading.pending >= maxPending) throw shed(onShed, 'in-flight');
    isNewKey &&= (await read(keyed, shardOfKey(keyed), keyed.id)) === undefined;
    const known = await Promise.all(parts.map((part) => readKnown(attempt, part)));
    const fresh = known.flatMap((part) => part.fresh).sort((a, b) => a.index - b.index);
    if (isFull && (isNewKey || (isKeyInPart && fresh.length > 0))) throw refuseNewKey(keyed.projectId);
    const taken = fresh.length > 0 ? await takeTokens(sender, fresh.length) : 0;
    const left = [...known.flatMap(({ open }) => open), ...toParts(keyed, fresh.slice(0, taken))];
    return { parts: left, isNewKey: isNewKey && taken > 0 };
  }

  /** @throws Fault QUEUE_UNAVAILABLE */
  async function isRecordLimitReached(keyed: Keyed, parts: Part[]): Promise<boolean> {
    const { projectId } = keyed;
    if (!recordLimit.mayBeFull(projectId)) return false;
    const isFull = recordLimit.isFull(projectId, [shardOfKey(keyed), ...parts.map(({ shard }) => shard)]);
    return withTimeout(isFull, budget.workMs).catch(refuseAll);
  }

  async function rememberKey(keyed: Keyed): Promise<void> {
    if (remembering.pending >= maxPending) throw shed(onShed, 'in-flight');
    checkSame(await remembering.run(shardOfKey(keyed), keyed), keyed);
  }

  async function read(keyed: Keyed, shard: number, id: string): Promise<PartRecord | undefined> {
    return checkSame(await reading.run(shard, { id, projectId: keyed.projectId }), keyed);
  }

  /**
   * Sets the results of the part's entries that an earlier attempt has closed.
   * @returns the parts that are open, and the entries without a record
   */
  async function readKnown(attempt: Attempt, { shard, items }: Part) {
    const records = await Promise.all(items.map((item) => read(attempt.keyed, shard, idOf(attempt, item))));
    const open: Part[] = [];
    let next = 0;
    for (let record = records[0]; record; record = records[next]) {
      const { size = items.length, existed } = parsePart(record) ?? {};
      const known = items.slice(next, next + size);
      const verdicts = existed && toReplayed(record, existed);
      if (verdicts) for (const [i, { index }] of known.entries()) attempt.results[index] = verdicts[i];
      else open.push({ shard, items: known });
      next += size;
    }
    return { open, fresh: items.slice(next) };
  }

  /**
   * Accepts a part. If the same part is in flight, waits for its result instead. Also waits for a part of another
   * request with the same key, because one chunk must not hold both.
   */
  const acceptOnce = (sender: Sender, keyed: Keyed, shard: number, part: PartInput): Promise<Results> =>
    underWay.has(part.id) ? acceptLater(sender, keyed, shard, part) : begin(sender, part);

  function begin(sender: Sender, part: PartInput): Promise<Results> {
    const results = acceptPart(sender, part);
    underWay.set(part.id, { fingerprint: part.fingerprint, results });
    const end = () => void underWay.delete(part.id);
    results.then(end, end); // the first to know, so that whoever waits for the results does not find the part under way
    return results;
  }

  async function acceptLater(sender: Sender, keyed: Keyed, shard: number, part: PartInput): Promise<Results> {
    const deadline = performance.now() + budget.turnMs;
    for (let first = underWay.get(part.id); first; first = underWay.get(part.id)) {
      const { fingerprint, results: earlier } = first;
      if (fingerprint !== part.fingerprint) {
        await waitForOther(earlier, () => read(keyed, shard, part.id), deadline);
        continue;
      }
      const results = await earlier.catch((error) => {
        // If the earlier attempt was refused because its partner left, this repeat still goes on.
        if (!(error instanceof AbandonedFault) || performance.now() > deadline) throw error;
      });
      if (!results) continue;
      return part.entries.map((_, i) => {
        const result = results[i];
        return isVerdict(result) ? { ...result, isReplayed: true } : result;
      });
    }
    return begin(sender, part);
  }

  /**
   * Waits until another request with the same key has ended.
   * @throws Fault IDEMPOTENCY_KEY_REUSED if the key stands for that request, or for one that `readRecord` finds
   */
  async function waitForOther(other: Promise<Results>, readRecord: () => Promise<unknown>, deadline: number) {
    const ended = async () => {
      const results = await other.catch((fault: Fault) => [fault]);
      if (results.some(isVerdict)) throw new Fault('IDEMPOTENCY_KEY_REUSED');
      if (performance.now() > deadline) return; // this request has already been refused
      const isOverloaded = results.some((result) => result instanceof Fault && result.code === 'OVERLOADED');
      if (isOverloaded || reading.pending >= maxPending) throw shed(onShed, 'in-flight');
      await readRecord();
    };
    await withTimeout(ended(), Math.max(0, deadline - performance.now())).catch((error) => {
      throw error instanceof Fault ? error : shed(onShed, 'waited');
    });
  }

  /** Accepts the part, and then the rest if the record of an earlier attempt covers fewer entries. */
  async function acceptWhole(attempt: Attempt, { shard, items }: Part): Promise<void> {
    const { sender, keyed, results } = attempt;
    for (let left = items; left.length > 0; left = left.filter(({ index }) => results[index] === undefined)) {
      const id = idOf(attempt, left[0] as Item);
      const part = { id, fingerprint: keyed.fingerprint, entries: left.map(({ entry }) => entry) };
      try {
        const accepted = await acceptOnce(sender, keyed, shard, part);
        for (const [i, { index }] of left.entries()) results[index] = accepted[i];
      } catch (error) {
        if (!(error instanceof Fault)) throw error;
        for (const { index } of left) results[index] = error; // what was accepted before keeps its results
      }
    }
  }

  async function acceptParts(sender: Sender, keyed: Keyed, entries: EntryInput[], first: number): Promise<Results> {
    const attempt: Attempt = { sender, keyed, first, results: new Array(entries.length).fill(undefined) };
    const items = entries.map((entry, index) => ({ entry, index }));
    const { parts, isNewKey } = await leaveOutKnown(attempt, toParts(keyed, items));
    if (isNewKey) await rememberKey(keyed);
    await Promise.all(parts.map((part) => acceptWhole(attempt, part)));
    return attempt.results;
  }

  return (sender, given, entries, first) => {
    const [entry] = entries;
    if (!entry) return Promise.resolve([]);
    const keyed = { ...given, id: toOwnId(given.id, shards) };
    const mayRead = sender.limit !== undefined || recordLimit.mayBeFull(keyed.projectId);
    return keyed.isBatch || mayRead ? acceptParts(sender, keyed, entries, first) : acceptSingle(sender, keyed, entry);
  };
}

/**
 * @param operation method and path, such as `POST /entry`
 * @param texts `toText` of the request's entries, in order
 */
export function toKeyed(projectId: number, key: string, operation: string, texts: string[]): Keyed {
  // Includes the key; otherwise the entries could be guessed from the stored fingerprint.
  const ofKey = `${projectId}:${key}`;
  const fingerprint = hash('sha256', `${ofKey}\n${operation}\n${texts.join('\n')}`, 'base64url').slice(0, 8);
  return { id: toId(ofKey), fingerprint, projectId, isBatch: operation === BATCH };
}

/** The id for this number of shards: with another number, the key may have another shard, and parts differ. */
export const toOwnId = (id: string, shards: number) => id.slice(0, -2) + shards.toString(36).padStart(2, '0');

export const BATCH = 'POST /entries';

/** Hashed, because a key may be long and contain data that a record should not hold. */
const toId = (text: string) => hash('sha256', text, 'base64url').slice(0, 16);
