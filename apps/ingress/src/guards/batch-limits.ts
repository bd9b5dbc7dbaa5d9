import { type OnShed, shed } from './overload.js';

/** Memory for all batch bodies together. A project may use half of it; its equal share is always available to it. */
const MAX_BYTES = 100 * 1024 * 1024;
/** Overhead per received part, in bytes. It matters if a body arrives byte by byte. */
const PART_OVERHEAD = 256;

/** The memory that one batch uses until it is answered. */
type HeldBody = {
  /** Counts a part that has arrived. @throws Fault OVERLOADED if the memory is used up */
  take(bytes: number): void;
  release(): void;
};

export type BatchMemory = ReturnType<typeof createBatchMemory>;

/**
 * Limits the memory of batch bodies. Only bytes that have arrived count, so an idle upload uses nothing. If the memory
 * is full, only projects above their equal share are refused.
 */
export function createBatchMemory(onShed: OnShed) {
  const heldBy = new Map<number, number>();
  let held = 0;

  function add(projectId: number, bytes: number): void {
    held += bytes;
    const own = (heldBy.get(projectId) ?? 0) + bytes;
    if (own > 0) heldBy.set(projectId, own);
    else heldBy.delete(projectId);
  }

  function hasRoom(projectId: number, bytes: number): boolean {
    const own = (heldBy.get(projectId) ?? 0) + bytes;
    if (held + bytes <= MAX_BYTES) return own <= MAX_BYTES / 2;
    return own <= MAX_BYTES / Math.max(2, heldBy.size + (heldBy.has(projectId) ? 0 : 1));
  }

  return {
    open(projectId: number): HeldBody {
      let own = 0;
      return {
        take(bytes) {
          const size = bytes + PART_OVERHEAD;
          if (!hasRoom(projectId, size)) throw shed(onShed, 'in-flight');
          own += size;
          add(projectId, size);
        },
        release() {
          add(projectId, -own);
          own = 0;
        },
      };
    },
  };
}

/** How long all bodies together may be processed in one turn of the event loop, in ms. */
const SLICE_MS = 5;

/**
 * Time slices for long work, such as parsing a batch. The code that processes a body calls `next` before each piece. If
 * the time of this turn of the event loop is used up, it waits for a later turn. Projects take turns, so that many
 * bodies of one project do not delay those of another.
 */
export class Slices {
  readonly #now: () => number;
  readonly #waiting = new Map<number, (() => void)[]>();
  #endsAt = Number.NEGATIVE_INFINITY;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
  }

  /** @returns undefined if this turn has time left, else a promise that resolves in a later turn */
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
    if (own.length > 0) this.#waiting.set(projectId, own); // to the end of the line
    if (this.#waiting.size > 0) setImmediate(this.#begin);
    this.#endsAt = this.#now() + SLICE_MS;
    resolve?.();
  };
}
