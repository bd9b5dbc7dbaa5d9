import { Fault } from '@opm/contract';
import {
  type AdmittedAgain,
  type EntryQueue,
  type KeyedPart,
  type OpenPart,
  type PartRecord,
  type PartState,
  parseOpen,
  parsePart,
} from '@opm/queue';
import type { TimeBudget } from '../config.js';
import type { Call, Results, Verdict } from './call.js';
import type { FindExisting } from './find-existing.js';
import type { ChunkPartition } from './partitions.js';

type AcceptRepeatsDeps = {
  queue: Pick<EntryQueue, 'admitAgain'>;
  findExisting: FindExisting;
  budget: Pick<TimeBudget, 'replyMs'>;
  acceptTogether: (partition: ChunkPartition, calls: Call[], deadline: number) => Promise<Results>;
  enqueue: (partition: ChunkPartition, calls: Call[], admitted: AdmittedAgain[], deadline: number) => Promise<void>;
  closeParts: (
    shard: number,
    parts: KeyedPart[],
    admitted: AdmittedAgain[],
    verdicts: Verdict[],
    deadline: number,
  ) => Promise<Verdict[]>;
  release: (shard: number, admitted: AdmittedAgain[]) => Promise<void>;
  toFaults: (error: Error, calls: Call[]) => Fault[];
};

/**
 * Accepts the keyed parts of a chunk that have a record of an earlier attempt. `known`: the records, by part. Resolves with one
 * result per call of the chunk; undefined for the calls of other parts.
 */
type AcceptRepeats = (
  partition: ChunkPartition,
  calls: Call[],
  parts: KeyedPart[],
  known: (PartRecord | undefined)[],
  deadline: number,
) => Promise<Results>;

/** For `FindExisting`: at the highest version it says whether a customer exists, at the lowest whether it was ever erased. */
const EXISTS_NOW = Number.MAX_SAFE_INTEGER;
const WAS_ERASED = 1;

/**
 * A part whose record is closed gets its first verdicts. A part whose record is open may have been queued or not: it is
 * queued again, with its first version, so it changes nothing that is newer.
 */
export function createAcceptRepeats(deps: AcceptRepeatsDeps): AcceptRepeats {
  const { queue, findExisting, budget, acceptTogether, enqueue, closeParts, release, toFaults } = deps;

  /**
   * Whether each customer existed before the first attempt. That is certain only if nothing else was accepted since: the first
   * admission found a claim, or its own claim or an older entry's is there. Otherwise another entry may have got the 201, so
   * any trace of the customer counts: a missing 201 is better than a second one. The claim of an earlier repeat says
   * nothing of the time before that repeat.
   */
  async function decideVerdicts(parts: OpenPart[], admitted: AdmittedAgain[], deadline: number): Promise<Verdict[]> {
    const firsts = parts.flatMap(({ record, size }) => {
      const { previous, claim } = parseOpen(record);
      return [...previous.padEnd(size, '-')].map((found) => ({ found, isClaimOfFirst: claim === record.version }));
    });
    const isFirstStanding = admitted.map(({ found }, i) => found === 'own' && firsts[i]?.isClaimOfFirst === true);
    const verdicts = admitted.map(({ found, previous }, i) => {
      const foundAtFirst = firsts[i]?.found; // a letter of `OpenState.previous`
      if (found === 'older') return previous?.erased !== true;
      if (foundAtFirst === 'p' || found === 'newer') return true;
      return foundAtFirst === 'e' && isFirstStanding[i] ? false : undefined;
    });
    const asked = admitted.flatMap(({ projectId, customerId, version }, place) => {
      if (verdicts[place] !== undefined) return [];
      const versions = isFirstStanding[place] ? [version] : [EXISTS_NOW, WAS_ERASED];
      return versions.map((at) => ({ place, query: { projectId, customerId, version: at } }));
    });
    const existing = await findExisting(
      asked.map(({ query }) => query),
      deadline - budget.replyMs,
    );
    const existed = new Set(asked.filter((_, i) => existing?.has(i) ?? true).map(({ place }) => place));
    return admitted.map(({ version }, place) => ({ existed: verdicts[place] ?? existed.has(place), version }));
  }

  async function acceptAgain(
    partition: ChunkPartition,
    calls: Call[],
    parts: OpenPart[],
    deadline: number,
  ): Promise<Results> {
    const admitted = await queue.admitAgain(partition.shard, calls, parts);
    if (!admitted) return acceptTogether(partition, calls, deadline); // a concurrent attempt has changed a record
    try {
      const verdicts = await decideVerdicts(parts, admitted, deadline); // before the enqueue, which may change the rows
      await enqueue(partition, calls, admitted, deadline);
      return await closeParts(partition.shard, parts, admitted, verdicts, deadline);
    } catch (error) {
      await release(partition.shard, admitted);
      throw error;
    }
  }

  return async (partition, calls, parts, known, deadline) => {
    const results: Results = new Array(calls.length).fill(undefined);
    const open: OpenPart[] = [];
    const places: number[] = [];
    for (const [i, part] of parts.entries()) {
      const record = known[i];
      if (!record) continue;
      const outcome = toOutcome(part, record);
      if (outcome instanceof Fault) results.fill(outcome, part.first, part.first + part.size);
      else if (outcome.existed) {
        for (const [j, existed] of outcome.existed.entries()) {
          results[part.first + j] = { existed, version: record.version + j, isReplayed: true };
        }
      } else {
        open.push({ ...part, first: places.length, size: outcome.size, record });
        for (let j = 0; j < outcome.size; j++) places.push(part.first + j);
      }
    }
    if (open.length === 0) return results;
    const own = places.map((place) => calls[place] as Call);
    const accepted = await acceptAgain(partition, own, open, deadline).catch((error): Results => toFaults(error, own));
    for (const [i, place] of places.entries()) results[place] = accepted[i];
    return results;
  };
}

/** The state of the record, or the fault that answers the part. */
function toOutcome(part: KeyedPart, record: PartRecord): PartState | Fault {
  const state = record.fingerprint === part.fingerprint ? parsePart(record) : undefined;
  if (!state) return new Fault('IDEMPOTENCY_KEY_REUSED');
  // A concurrent attempt had more tokens. The repeat will find its record before it takes tokens.
  return state.size > part.size ? new Fault('OVERLOADED') : state;
}
