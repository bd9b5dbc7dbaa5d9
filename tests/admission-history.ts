import type { CustomerState } from '@opm/core';
import type { Admitted, Asking, ChunkEntry, Persisted } from '@opm/queue';
import type { Said } from '../apps/ingress/src/accept-entry.js';

/** An entry that was admitted. */
export type Known = {
  /** Its customer, see `toKey`. */
  key: string;
  entry: Said;
  version: number;
  /** The answer that is due. */
  existed: boolean;
  isReleased: boolean;
  /** PostgreSQL was asked too late to know, see {@link AdmissionHistory.lookUp}: then nobody is told that it was the first. */
  isUnknown: boolean;
};

/** Two projects may have customers of the same id. */
export const toKey = ({ projectId, customerId }: { projectId: number; customerId: string }) =>
  `${projectId}:${customerId}`;

/**
 * The sequential model of admission: it hears of every step when it has been taken, has one process and one memory, and
 * says what the answers, the rows and the claims must be.
 */
export class AdmissionHistory {
  readonly known: Known[] = [];
  /** Versions of claims, by customer. */
  readonly claims = new Map<string, number>();
  readonly #stored = new Map<string, Pick<CustomerState, 'lastVersion' | 'erasedVersion'>>();
  /** Calls that failed and would have counted entries down. */
  failedToCountDown = false;
  readonly #enqueued: ChunkEntry[] = [];

  admit(asking: (Asking & { entry: Said })[], admitted: Admitted[]): void {
    asking.forEach(({ entry, ...customer }, i) => {
      const key = toKey(customer);
      const version = admitted[i]?.version ?? 0;
      const before = this.#newestOf(key);
      const existed = before !== undefined && !before.entry.erase;
      this.known.push({ key, entry, version, existed, isReleased: false, isUnknown: false });
      this.claims.set(key, version);
    });
  }

  /** What a claim says counts, even where its entry was released after another one had replaced it. */
  #newestOf(key: string): Known | undefined {
    const claim = this.claims.get(key);
    return this.known.findLast((known) =>
      claim === undefined ? known.key === key && !known.isReleased : known.version === claim,
    );
  }

  /** Once the entry or a later one is stored, the row of one who was ever erased does not say when the present life began. */
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

  /** Nobody's answer is another one, and the claims stay. */
  failToRelease(admitted: Admitted[]): void {
    for (const { version } of admitted) this.#find(version).isReleased = true;
    this.failedToCountDown = true;
  }

  failToSettle(): void {
    this.failedToCountDown = true;
  }

  enqueue(entries: ChunkEntry[]): void {
    this.#enqueued.push(...entries);
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
      if ((this.claims.get(key) ?? 0) <= version) this.claims.delete(key);
    }
  }

  /** The fields of the customers that are there when the entries that were enqueued are applied, one by one. */
  rows(): Map<string, object> {
    const rows = new Map<string, object>();
    for (const { fields, erase, ...customer } of this.#enqueued.toSorted((a, b) => a.version - b.version)) {
      const key = toKey(customer);
      if (erase) rows.delete(key);
      else rows.set(key, { ...rows.get(key), ...fields });
    }
    return rows;
  }

  #find(version: number): Known {
    const found = this.known.find((it) => it.version === version);
    if (!found) throw new Error(`no entry was admitted with version ${version}`);
    return found;
  }
}
