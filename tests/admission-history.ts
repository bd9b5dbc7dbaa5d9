import type { CustomerState } from '@opm/core';
import type { AdmitRequest, Admitted, ChunkEntry, Persisted } from '@opm/queue';
import type { EntryInput } from '../apps/ingress/src/ingest/call.js';

/** An admitted entry. */
export type AdmittedEntry = {
  /** The customer's key, see `toKey`. */
  key: string;
  entry: EntryInput;
  version: number;
  /** The expected answer. */
  existed: boolean;
  isReleased: boolean;
  /**
   * Whether it has a job; it may be released all the same, because another job of its admission could not be stored.
   */
  isQueued: boolean;
  /**
   * Whether the look-up was too late to know, see {@link AdmissionHistory.lookUp}: then no entry may be answered as the
   * first.
   */
  isUnknown: boolean;
};

/** Identifies a customer: two projects may have customers with the same id. */
export const toKey = ({ projectId, customerId }: { projectId: number; customerId: string }) =>
  `${projectId}:${customerId}`;

/**
 * The sequential model of admission. It records every step after the real one, in one process and one memory, and
 * computes the expected answers, rows and claims.
 */
export class AdmissionHistory {
  readonly known: AdmittedEntry[] = [];
  /** Versions of the claims, by customer key. */
  readonly claims = new Map<string, number>();
  readonly #stored = new Map<string, Pick<CustomerState, 'lastVersion' | 'erasedVersion'>>();
  /** Whether a call failed that would have reduced the count of waiting entries. */
  failedToCountDown = false;
  readonly #enqueued: ChunkEntry[] = [];
  /** The priorities of each project's jobs, by project id. */
  readonly priorities = new Map<number, Set<number>>();

  admit(asking: (AdmitRequest & { entry: EntryInput })[], admitted: Admitted[]): void {
    asking.forEach(({ entry, ...customer }, i) => {
      const key = toKey(customer);
      const version = admitted[i]?.version ?? 0;
      const before = this.#newestOf(key);
      const existed = before !== undefined && !before.entry.erase;
      this.known.push({ key, entry, version, existed, isReleased: false, isQueued: false, isUnknown: false });
      this.claims.set(key, version);
    });
  }

  /** The claim decides, even if its entry was released after another one had replaced the claim. */
  #newestOf(key: string): AdmittedEntry | undefined {
    const claim = this.claims.get(key);
    return this.known.findLast((known) =>
      claim === undefined ? known.key === key && !known.isReleased : known.version === claim,
    );
  }

  /**
   * Once the entry or a later one is stored, the row of a customer who was ever erased does not tell when the current
   * life began.
   */
  lookUp(asked: { projectId: number; customerId: string; version: number }[]): void {
    for (const { version, ...customer } of asked) {
      const { lastVersion, erasedVersion } = this.#stored.get(toKey(customer)) ?? { lastVersion: 0, erasedVersion: 0 };
      if (erasedVersion === 0 || lastVersion < version) continue;
      Object.assign(this.#find(version), { existed: true, isUnknown: true });
    }
  }

  release(admitted: Admitted[]): void {
    for (const { version, previous, ...customer } of admitted.toReversed()) {
      this.#find(version).isReleased = true;
      const key = toKey(customer);
      if (this.claims.get(key) !== version) continue;
      if (previous) this.claims.set(key, previous.version);
      else this.claims.delete(key);
    }
  }

  /** No answer changes, and the claims stay. */
  failToRelease(admitted: Admitted[]): void {
    for (const { version } of admitted) this.#find(version).isReleased = true;
    this.failedToCountDown = true;
  }

  failToSettle(): void {
    this.failedToCountDown = true;
  }

  enqueue(entries: ChunkEntry[], priority: number): void {
    this.#enqueued.push(...entries);
    for (const { projectId, version } of entries) {
      this.#find(version).isQueued = true;
      this.priorities.set(projectId, (this.priorities.get(projectId) ?? new Set()).add(priority));
    }
  }

  upsert(rows: { projectId: number; customerId: string; state: CustomerState }[]): void {
    for (const { state, ...customer } of rows) {
      const key = toKey(customer);
      const { lastVersion, erasedVersion } = this.#stored.get(key) ?? { lastVersion: 0, erasedVersion: 0 };
      this.#stored.set(key, {
        lastVersion: Math.max(lastVersion, state.lastVersion),
        erasedVersion: Math.max(erasedVersion, state.erasedVersion),
      });
    }
  }

  settle(persisted: Persisted[]): void {
    for (const { version, ...customer } of persisted) {
      const key = toKey(customer);
      if (this.claims.get(key) === version) this.claims.delete(key);
    }
  }

  /** The fields of all customers after the enqueued entries are applied one by one. */
  rows(): Map<string, object> {
    const rows = new Map<string, object>();
    for (const { fields, erase, ...customer } of this.#enqueued.toSorted((a, b) => a.version - b.version)) {
      const key = toKey(customer);
      if (erase) rows.delete(key);
      else rows.set(key, { ...rows.get(key), ...fields });
    }
    return rows;
  }

  #find(version: number): AdmittedEntry {
    const found = this.known.find((it) => it.version === version);
    if (!found) throw new Error(`no entry was admitted with version ${version}`);
    return found;
  }
}
