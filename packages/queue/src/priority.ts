/** A second of a small installation: up to here nobody waits for long behind a project. */
const FAIR_BACKLOG = 128;
/** Few classes: chunks of different ones are kept apart. */
const STEP = 16;

/**
 * The BullMQ priority of a job of projects with such a backlog in the shard: 0 (none, and the first to be taken) while little of
 * them waits, then one more each time that there is sixteen times as much. Jobs of a project may overtake one another: entries
 * merge in any order.
 */
export function toPriority(backlog: number): number {
  return backlog <= FAIR_BACKLOG ? 0 : Math.ceil(Math.log(backlog / FAIR_BACKLOG) / Math.log(STEP));
}
