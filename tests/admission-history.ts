import type { CustomerEntry, CustomerState } from '@opm/core';
import type { Admitted, Persisted } from '@opm/queue';
import type { Said } from '../apps/ingress/src/accept-entry.js';

/** An entry that was admitted. */
export type Known = {
  entry: Said;
  version: number;
  /** The answer that is due. */
  existed: boolean;
  isReleased: boolean;
  /** PostgreSQL was asked too late to know, see {@link AdmissionHistory.lookUp}: then nobody is told that it was the first. */
  isUnknown: boolean;
};

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
  readonly #enqueued: CustomerEntry[] = [];

  admit(entries: Said[], admitted: Admitted[]): void {
    entries.forEach((entry, i) => {
      const version = admitted[i]?.version ?? 0;
      const before = this.#newestOf(entry.customerId);
      const existed = before !== undefined && !before.entry.erase;
      this.known.push({ entry, version, existed, isReleased: false, isUnknown: false });
      this.claims.set(entry.customerId, version);
    });
  }

  /** What a claim says counts, even where its entry was released after another one had replaced it. */
  #newestOf(customerId: string): Known | undefined {
    const claim = this.claims.get(customerId);
    return this.known.findLast(({ entry, version, isReleased }) =>
      claim === undefined ? entry.customerId === customerId && !isReleased : version === claim,
    );
  }

  /** Once the entry or a later one is stored, the row of one who was ever erased does not say when the present life began. */
  lookUp(asked: { customerId: string; version: number }[]): void {
    for (const { customerId, version } of asked) {
      const { lastVersion, erasedVersion } = this.#stored.get(customerId) ?? { lastVersion: 0, erasedVersion: 0 };
      if (erasedVersion === 0 || lastVersion < version) continue;
      Object.assign(this.#find(version), { existed: true, isUnknown: true });
    }
  }

  release(admitted: Admitted[]): void {
    for (const { customerId, version, previous } of admitted.toReversed()) {
      this.#find(version).isReleased = true;
      if (this.claims.get(customerId) !== version) continue;
      if (previous) this.claims.set(customerId, previous.version);
      else this.claims.delete(customerId);
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

  enqueue(entries: CustomerEntry[]): void {
    this.#enqueued.push(...entries);
  }

  upsert(rows: { customerId: string; state: CustomerState }[]): void {
    for (const { customerId, state } of rows) {
      const { lastVersion, erasedVersion } = this.#stored.get(customerId) ?? { lastVersion: 0, erasedVersion: 0 };
      this.#stored.set(customerId, {
        lastVersion: Math.max(lastVersion, state.lastVersion),
        erasedVersion: Math.max(erasedVersion, state.erasedVersion),
      });
    }
  }

  settle(persisted: Persisted[]): void {
    for (const { customerId, version } of persisted.flatMap(({ entries }) => entries)) {
      if ((this.claims.get(customerId) ?? 0) <= version) this.claims.delete(customerId);
    }
  }

  /** The fields of the customers that are there when the entries that were enqueued are applied, one by one. */
  rows(): Map<string, object> {
    const rows = new Map<string, object>();
    for (const { customerId, fields, erase } of this.#enqueued.toSorted((a, b) => a.version - b.version)) {
      if (erase) rows.delete(customerId);
      else rows.set(customerId, { ...rows.get(customerId), ...fields });
    }
    return rows;
  }

  #find(version: number): Known {
    const found = this.known.find((it) => it.version === version);
    if (!found) throw new Error(`no entry was admitted with version ${version}`);
    return found;
  }
}
