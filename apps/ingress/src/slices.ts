/** All bodies together are worked on for so long in one turn of the event loop; then whoever else is there has a turn. */
const SLICE_MS = 5;

/**
 * Shares out the time for what may take long, such as reading a batch: whoever works on a body asks before each piece of it,
 * and waits for a later turn of the event loop where this one's time is used up. Projects take turns, so that many bodies of
 * one hold up nobody else's.
 */
export class Slices {
  readonly #now: () => number;
  readonly #waiting = new Map<number, (() => void)[]>();
  #endsAt = Number.NEGATIVE_INFINITY;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** @returns undefined where there is time left */
  next(projectId: number): Promise<void> | undefined {
    if (this.#now() < this.#endsAt) return undefined;
    return new Promise((resolve) => {
      if (this.#waiting.size === 0) setImmediate(this.#begin);
      const own = this.#waiting.get(projectId);
      if (own) own.push(resolve);
      else this.#waiting.set(projectId, [resolve]);
    });
  }

  readonly #begin = (): void => {
    const [projectId, own] = this.#waiting.entries().next().value as [number, (() => void)[]];
    this.#waiting.delete(projectId);
    const resolve = own.shift();
    if (own.length > 0) this.#waiting.set(projectId, own); // behind the others
    if (this.#waiting.size > 0) setImmediate(this.#begin);
    this.#endsAt = this.#now() + SLICE_MS;
    resolve?.();
  };
}
