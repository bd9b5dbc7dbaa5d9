/** Two statements' worth: up to here nobody waits for long behind a project. */
const FAIR_BACKLOG = 2_000;

/**
 * The BullMQ priority of a project's next job: 0 (none, and the first to be taken) while little of it waits, then one
 * more with every doubling of its backlog. Jobs of a project may overtake one another: entries merge in any order.
 */
export function toPriority(backlog: number): number {
  return backlog <= FAIR_BACKLOG ? 0 : Math.ceil(Math.log2(backlog / FAIR_BACKLOG));
}
