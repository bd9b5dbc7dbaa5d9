import { Fault } from '@opm/contract';

/** Of all bodies together. A project may hold half of it, and its equal share whatever the others hold. */
const MAX_BYTES = 100 * 1024 * 1024;
/** What a part takes beside its bytes: a body may come byte by byte. */
const PART_OVERHEAD = 256;

/** The memory that one batch takes while it is read and answered. */
export type HeldBody = {
  /** Counts a part that has arrived. @throws Fault OVERLOADED if there is no room for it */
  take(bytes: number): void;
  release(): void;
};

/**
 * Bounds what the bodies of batches take, by the bytes that have arrived: an upload that sends nothing takes nothing.
 * A project above its share is refused, and leaves the others their room.
 */
export function createBatchMemory(onShed: (reason: 'in-flight') => void) {
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
          if (!hasRoom(projectId, size)) {
            onShed('in-flight');
            throw new Fault('OVERLOADED');
          }
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
