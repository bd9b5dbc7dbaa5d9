import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect } from '@jest/globals';
import { Fault } from '@opm/contract';
import { createEntryQueue, type EntryQueue, findNew, type PartRecord, parsePart } from '@opm/queue';
import { createLogger } from '@opm/runtime';
import { createStore } from '@opm/store';
import { ANSWER_TIMEOUT_MS, type Backend } from '@opm/testkit';
import { createClearLeftovers } from '../../../packages/queue/src/clear-leftovers.js';
import { connectQueueBackend } from '../../../packages/queue/src/queue-backend.js';
import { toAddresses } from '../../../packages/queue/src/queue-store.js';
import { toTimeBudget } from '../src/config.js';
import { createRecordLimit } from '../src/guards/rate-limiter.js';
import { createAcceptEntry } from '../src/ingest/accept-entry.js';
import type { Call, EntryInput, Verdict } from '../src/ingest/call.js';
import { CircuitBreaker } from '../src/ingest/circuit-breaker.js';
import { createFindExisting } from '../src/ingest/find-existing.js';
import { createAcceptKeyed, type Keyed } from '../src/ingest/idempotency.js';
import { createChunkPartitions } from '../src/ingest/partitions.js';
import { openStepwiseWorker } from './repeats-worker.js';

/** A call of an ingress to a store. */
export type StepName = 'remember' | 'read' | 'admit' | 'admitAgain' | 'lookUp' | 'enqueue' | 'close' | 'release';

/**
 * What happens at the first such call of an attempt, before or after it takes effect: `meanwhile`, and then the call
 * fails, or the ingress dies. It has no effects after its death.
 */
export type Incident = {
  at: StepName;
  when: 'before' | 'after';
  meanwhile?: () => Promise<void>;
  fate?: 'fails' | 'dies';
};

/** What is known of an entry. `asked` and `admitted`: the times before and after its first admission, by a counter. */
export type Facts = {
  entry: EntryInput;
  /** 0 until it is admitted. */
  version: number;
  asked: number;
  admitted: number;
  isQueued: boolean;
  isStored: boolean;
  /** The verdict in the closed record. */
  closed: boolean | undefined;
  /** The verdicts that a partner got. */
  answers: Verdict[];
};

export type Answer = Verdict | Fault | undefined;

const logger = createLogger({ name: 'test', level: 'silent' });
const budget = toTimeBudget(ANSWER_TIMEOUT_MS);
const ignore = () => {};
const DOWN = new Fault('QUEUE_UNAVAILABLE');
const PROJECT = 1;

export type Harness = Awaited<ReturnType<typeof openHarness>>;

/** Two ingresses and a worker without their processes, on real stores. */
export async function openHarness(backend: Backend, shards: number) {
  const options = { ...backend, shards, signal: new AbortController().signal, onError: ignore };
  const store = createStore({ databaseUrl: backend.databaseUrl, poolSize: 4, applicationName: 'test' });
  const queues = await Promise.all([0, 1].map(() => createEntryQueue(options)));
  const maintenance = await connectQueueBackend(options, 'worker', options);
  const entryQueues = await Promise.all(toAddresses(shards).map((address) => maintenance.openQueue(address)));
  const worker = await openStepwiseWorker(options, store);
  const findExisting = createFindExisting({
    query: store.customers.findExisting,
    maxInFlight: 4,
    timeoutMs: budget.lookUpMs,
    breaker: new CircuitBreaker({ onFailure: ignore }),
    onUnknown: ignore,
  });
  const ingresses = queues.map((queue) => ({ queue, chunkPartitions: createChunkPartitions(shards) }));
  const allShards = Array.from({ length: shards }, (_, shard) => shard);
  let facts = new Map<EntryInput, Facts>();
  let partEntries = new Map<string, EntryInput[]>();
  const withFailedRepeats = new Set<string>();
  const repeatsOf = new Map<string, Set<number>>();
  let now = 0;

  const factsOf = (entry: EntryInput) => facts.get(entry) as Facts;

  /** One attempt has its own objects of an ingress, so it can die alone. */
  function createAttempt(ingress: number, incidents: Incident[], tokens = Number.POSITIVE_INFINITY) {
    const { queue, chunkPartitions } = ingresses[ingress] as (typeof ingresses)[number];
    const due = [...incidents];
    const calls = new Set<Promise<unknown>>();
    /** Errors of this test's own checks, which the ingress would answer with a 503. */
    const defects: unknown[] = [];
    let isDead = false;
    let admissions = 0;

    async function meet(at: StepName, when: Incident['when']): Promise<void> {
      if (isDead) throw DOWN;
      const found = due.findIndex((incident) => incident.at === at && incident.when === when);
      const [incident] = found < 0 ? [] : due.splice(found, 1);
      await incident?.meanwhile?.();
      isDead ||= incident?.fate === 'dies';
      if (incident?.fate) throw DOWN;
    }
    function step<T>(at: StepName, effect: () => Promise<T>): Promise<T> {
      const call = meet(at, 'before').then(async () => {
        const result = await effect();
        await meet(at, 'after');
        return result;
      });
      const settled: Promise<void> = call
        .then(ignore, (error) => {
          if (!(error instanceof Fault)) defects.push(error);
        })
        .then(() => void calls.delete(settled));
      calls.add(settled);
      return call;
    }

    const stepwise: Parameters<typeof createAcceptEntry>[0]['queue'] & Pick<EntryQueue, 'idempotency'> = {
      admit: (shard, given, parts = []) =>
        step('admit', async () => {
          const asked = ++now;
          admissions++;
          const admittance = await queue.admit(shard, given, parts);
          const { known = [] } = admittance;
          const entries = (given as Call[]).map(({ entry }) => entry);
          for (const [n, { id, first, size }] of parts.entries()) {
            if (!known[n]) partEntries.set(`${shard} ${id}`, entries.slice(first, first + size));
          }
          const fresh = findNew(entries, parts, known);
          expect(admittance.admitted).toHaveLength(fresh.length);
          for (const [i, { version }] of admittance.admitted.entries()) {
            Object.assign(setVersion(fresh[i] as EntryInput, version), { asked, admitted: ++now });
          }
          return admittance;
        }),
      admitAgain: (shard, given, parts) =>
        step('admitAgain', async () => {
          const admitted = await queue.admitAgain(shard, given, parts);
          for (const [i, { version, customerId }] of admitted?.entries() ?? []) {
            setVersion((given[i] as Call).entry, version);
            repeatsOf.set(customerId, (repeatsOf.get(customerId) ?? new Set()).add(version));
          }
          return admitted;
        }),
      enqueue: (shard, chunk, priority) =>
        step('enqueue', async () => {
          const jobId = await queue.enqueue(shard, chunk, priority);
          const queued = chunk.entries.map(({ customerId, version, fields }) => {
            const one = [...facts.values()].find((it) => it.entry.customerId === customerId && it.version === version);
            expect(one?.entry.fields).toEqual(fields);
            return one as Facts;
          });
          for (const one of queued) one.isQueued = true;
          worker.onQueued(shard, jobId, () => {
            for (const one of queued) one.isStored = true;
          });
          return jobId;
        }),
      release: (shard, admitted) =>
        step('release', async () => {
          await queue.release(shard, admitted);
          for (const one of admitted) if ('claim' in one) withFailedRepeats.add(one.customerId);
        }),
      idempotency: {
        ...queue.idempotency,
        remember: (...call) => step('remember', () => queue.idempotency.remember(...call)),
        read: (...call) => step('read', () => queue.idempotency.read(...call)),
        close: (shard, parts) =>
          step('close', async () => {
            const merged = await queue.idempotency.close(shard, parts);
            await onClosed(
              shard,
              parts.map(({ id }) => id),
            );
            return merged;
          }),
      },
    };
    const { acceptEntry, acceptPart } = createAcceptEntry({
      queue: stepwise,
      findExisting: (...call) => step('lookUp', () => findExisting(...call)).catch(() => undefined),
      chunkPartitions,
      maxInFlight: 4,
      budget,
      maxEntries: 200,
      maxPending: 1_000,
      isAbandoned: () => false,
      ...{ onChunk: ignore, onRecordBytes: ignore, onShed: ignore },
      logger,
    });
    const acceptKeyed = createAcceptKeyed({
      idempotency: stepwise.idempotency,
      recordLimit: createRecordLimit(queue.idempotency),
      acceptPart,
      takeTokens: (_sender, entries) => Math.min(entries, tokens),
      ...{ shards, groupSize: 200, budget },
      maxPending: 1_000,
      onShed: ignore,
      logger,
    });
    const limit = tokens === Number.POSITIVE_INFINITY ? undefined : { rate: 1, burst: 1 };
    const sender = () => ({
      ...{ projectId: PROJECT, startedAt: performance.now(), bodyBytes: 0, socket: { destroyed: false } },
      ...{ limit, reservation: undefined },
    });
    const toFaults = (count: number) => (error: unknown) => {
      if (error instanceof Fault) return new Array<Answer>(count).fill(error);
      throw error;
    };
    return {
      admissions: () => admissions,
      /** @returns one answer per entry; undefined for those that the partner does not get an answer for */
      async send(keyed: Keyed | undefined, entries: EntryInput[]): Promise<Answer[]> {
        const [first] = entries as [EntryInput];
        const accepting = keyed
          ? acceptKeyed(sender(), { ...keyed }, entries, 0) // each request has its own object
          : acceptEntry(sender(), first).then((it) => [it]);
        const answers = await accepting.catch(toFaults(entries.length));
        while (calls.size > 0) {
          await Promise.all(calls);
          for (let turn = 0; turn < 3; turn++) await nextTurn();
        }
        if (defects.length > 0) throw defects[0];
        return isDead ? entries.map(() => undefined) : answers;
      },
    };
  }

  /** An entry keeps its first version. The answer to its first admission may come late. */
  function setVersion(entry: EntryInput, version: number): Facts {
    const one = factsOf(entry);
    expect([0, version]).toContain(one.version);
    one.version = version;
    return one;
  }

  /** Reads the verdicts, because another attempt may have closed the records first. */
  async function onClosed(shard: number, ids: string[]): Promise<void> {
    const records = await maintenance.idempotency.read(shard, ids);
    for (const [n, id] of ids.entries()) {
      const { existed = [] } = parsePart(records[n] as PartRecord) ?? {};
      for (const [i, closed] of existed.entries()) {
        const one = factsOf(partEntries.get(`${shard} ${id}`)?.[i] as EntryInput);
        expect(one.isQueued).toBe(true);
        if (one.closed === false) expect(closed).toBe(false);
        one.closed = closed;
      }
    }
  }

  const leftovers = createClearLeftovers(maintenance.admission, entryQueues, maintenance.readClock, 0);
  return {
    projectId: PROJECT,
    shards,
    store,
    createAttempt,
    drain: worker.drain,
    /** The customers of repeats that were released. */
    withFailedRepeats,
    /** The versions of each customer's entries that were admitted again. */
    repeatsOf,
    /** Forgets the entries of the history before. */
    begin(): Map<EntryInput, Facts> {
      facts = new Map();
      partEntries = new Map();
      return facts;
    },
    /** Must be called for each entry before it is sent. */
    track(entry: EntryInput): EntryInput {
      const times = { version: 0, asked: 0, admitted: 0 };
      facts.set(entry, { entry, ...times, isQueued: false, isStored: false, closed: undefined, answers: [] });
      return entry;
    },
    /** Corrects the counts and sweeps the claims, as maintenance does for those older than 30 s. */
    async clear(): Promise<void> {
      await worker.untilIdle(); // a job that is not removed yet would keep younger claims
      await leftovers.observe();
      await leftovers.clear();
    },
    untilIdle: () => worker.untilIdle(),
    countWaiting: async () => {
      const waiting = await Promise.all(allShards.map((shard) => maintenance.admission.readShardBacklog(shard)));
      return waiting.reduce((sum, { entries }) => sum + entries, 0);
    },
    readClaims: (customerIds: string[], shard: number) =>
      maintenance.admission.readClaims(
        shard,
        PROJECT,
        customerIds.map((customerId) => ({ customerId })),
      ),
    /** What an admission changes. */
    readState: () =>
      Promise.all(
        allShards.flatMap((shard): Promise<unknown>[] => [
          maintenance.admission.readVersion(shard),
          maintenance.admission.readShardBacklog(shard),
        ]),
      ),
    async close(): Promise<void> {
      await worker.drain('all');
      await Promise.all([worker, maintenance, ...queues].map((it) => it.close()));
      await store.close();
    },
  };
}
