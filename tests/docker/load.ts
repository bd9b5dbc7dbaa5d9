import { OpmClient } from '@opm/client';
import { waitFor } from '@opm/testkit';

const PARTNERS = 8;
const MORE_ENTRIES = 200;
const PATIENCE_MS = 300_000;

export type Load = ReturnType<typeof startLoad>;

/** Starts partners that send one entry after another until the load ends. Every second entry is of a new customer. */
export function startLoad(options: { url: string; apiKey: string }) {
  const client = new OpmClient({ ...options, deadlineMs: PATIENCE_MS });
  /** The last acknowledged phone of each customer. */
  const acknowledged = new Map<string, string>();
  let count = 0;
  let isOver = false;

  async function runPartner(n: number): Promise<void> {
    for (let round = 0; !isOver; round++) {
      const customerId = round % 2 === 0 ? `known ${n}` : `new ${n} ${round}`;
      await client.send({ customerId, customerPhone: `${round}` });
      acknowledged.set(customerId, `${round}`);
      count++;
    }
  }
  const failures: unknown[] = [];
  const partners = Array.from({ length: PARTNERS }, (_partner, n) =>
    runPartner(n).catch((error) => failures.push(error)),
  );

  return {
    acknowledged,
    /** Errors of partners whose entry was not acknowledged despite retries. Such a partner has stopped. */
    failures,
    /** Resolves when 200 more entries are acknowledged. */
    async goesOn(): Promise<void> {
      const due = count + MORE_ENTRIES;
      const isDone = () => failures.length > 0 || count >= due;
      await waitFor(isDone, { description: 'entries to be acknowledged', timeoutMs: PATIENCE_MS });
    },
    /** Stops the load; resolves when every sent entry is acknowledged or has failed. */
    async end(): Promise<void> {
      isOver = true;
      await Promise.all(partners);
    },
    /** Stops the load at once. */
    async drop(): Promise<void> {
      isOver = true;
      await client.close({ timeoutMs: 0 });
      await Promise.all(partners);
    },
  };
}
