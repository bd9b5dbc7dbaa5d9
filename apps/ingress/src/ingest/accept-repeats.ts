import { Fault } from '@opm/contract';
import type { Version } from '@opm/core';
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
import { type Bulk, type Call, pickCalls, type Results, toReplayed, type Verdict } from './call.js';
import type { FindExisting } from './find-existing.js';

type AcceptRepeatsDeps = {
  queue: Pick<EntryQueue, 'admitAgain'>;
  findExisting: FindExisting;
  acceptTogether: (bulk: Bulk) => Promise<Results>;
  finish: (bulk: Bulk, admitted: AdmittedAgain[], deciding: Promise<Verdict[]>) => Promise<Verdict[]>;
  toFaults: (error: Error, calls: Call[]) => Fault[];
};

/**
 * Accepts the keyed parts that have a record of an earlier attempt. `known`: the records, by part. Resolves with one
 * result per call of the bulk; undefined for the calls of other parts.
 */
type AcceptRepeats = (bulk: Bulk, known: (PartRecord | undefined)[]) => Promise<Results>;

/**
 * A part whose record is closed gets its first verdicts. A part whose record is open may have been queued or not: it is
 * queued again, with its first version, so it changes nothing that is newer.
 */
export function createAcceptRepeats(deps: AcceptRepeatsDeps): AcceptRepeats {
  const { queue, findExisting, acceptTogether, finish, toFaults } = deps;

  /** Decides by the claims whether each customer existed, and looks up those for which the claims do not tell. */
  async function decideAll(parts: OpenPart[], admitted: AdmittedAgain[], replyAt: number): Promise<Verdict[]> {
    const repeats = parts.flatMap(({ record, first, size }) => {
      const { previous, claim } = parseOpen(record);
      return admitted.slice(first, first + size).map((own, i) => {
        return { ...own, existed: decide(own, previous[i], claim === record.version) };
      });
    });
    const queries = repeats.flatMap(({ projectId, customerId, existed }) => {
      return typeof existed === 'boolean' ? [] : existed.map((version) => ({ projectId, customerId, version }));
    });
    const existing = await findExisting(queries, replyAt);
    let place = 0;
    const isFound = () => existing?.has(place++) ?? true;
    return repeats.map(({ version, existed }) => {
      return { existed: typeof existed === 'boolean' ? existed : existed.map(isFound).includes(true), version };
    });
  }

  async function acceptAgain(bulk: Bulk, parts: OpenPart[]): Promise<Results> {
    const admitted = await queue.admitAgain(bulk.shard, bulk.calls, parts);
    if (!admitted) return acceptTogether(bulk); // a concurrent attempt has changed a record
    // Waits for the look-up, because the enqueue may change the rows.
    return finish({ ...bulk, waitsForLookUp: true }, admitted, decideAll(parts, admitted, bulk.replyAt));
  }

  return async (bulk, known) => {
    const { calls, parts } = bulk;
    const results: Results = new Array(calls.length).fill(undefined);
    const open: OpenPart[] = [];
    const places: number[] = [];
    for (const [i, part] of parts.entries()) {
      const record = known[i];
      if (!record) continue;
      const outcome = toOutcome(part, record);
      if (outcome instanceof Fault) results.fill(outcome, part.first, part.first + part.size);
      else if (outcome.existed) {
        for (const [j, verdict] of toReplayed(record, outcome.existed).entries()) results[part.first + j] = verdict;
      } else {
        open.push({ ...part, first: places.length, size: outcome.size, record });
        for (let j = 0; j < outcome.size; j++) places.push(part.first + j);
      }
    }
    if (open.length === 0) return results;
    const own = pickCalls(bulk, places);
    const accepted = await acceptAgain(own, open).catch((error): Results => toFaults(error, own.calls));
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

/**
 * Versions for `FindExisting`. At the highest, it finds every existing customer; at the lowest, every customer that was
 * ever erased.
 */
const EXISTS_NOW = Number.MAX_SAFE_INTEGER;
const WAS_ERASED = 1;

/**
 * Decides whether the customer existed before the first attempt. Otherwise returns the versions to look up: the
 * customer existed if it is found at any of them. The answer is exact only if nothing else was accepted since, that is,
 * if the first admission found the claim of an existing customer, or the store still holds the claim of the first
 * attempt or of an older entry. Otherwise another entry may have got the 201, so any trace of the customer counts: a
 * missing 201 is better than a second one.
 * @param foundAtFirst a letter of `OpenState.previous`
 * @param isClaimOfFirst false if an earlier repeat replaced the claims: they tell nothing about the time before it
 */
function decide(
  { found, previous, version }: AdmittedAgain,
  foundAtFirst: string | undefined,
  isClaimOfFirst: boolean,
): boolean | Version[] {
  if (found === 'older') return previous?.erased !== true;
  if (found === 'newer' || foundAtFirst === 'p') return true;
  if (found === 'none' || !isClaimOfFirst) return [EXISTS_NOW, WAS_ERASED];
  return foundAtFirst === 'e' ? false : [version];
}
