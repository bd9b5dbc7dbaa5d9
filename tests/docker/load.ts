import { OpmClient } from '@opm/client';
import { waitFor } from '@opm/testkit';

const PARTNERS = 8;
const ENOUGH = 200;
const PATIENCE_MS = 300_000;

export type Load = ReturnType<typeof startLoad>;

/** Partners that send one entry after the other until it ends, every second one of a customer who is new. */
export function startLoad(options: { url: string; apiKey: string }) {
  const client = new OpmClient({ ...options, deadlineMs: PATIENCE_MS });
  /** The last phone of each customer for which there was an acknowledgement. */
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
    /** What a partner could not get acknowledged, for all its retries. It has stopped then. */
    failures,
    /** Resolves when more entries have been acknowledged. */
    async goesOn(): Promise<void> {
      const due = count + ENOUGH;
      const isDone = () => failures.length > 0 || count >= due;
      await waitFor(isDone, { description: 'entries to be acknowledged', timeoutMs: PATIENCE_MS });
    },
    /** Resolves when all that was sent is acknowledged, or has failed. */
    async end(): Promise<void> {
      isOver = true;
      await Promise.all(partners);
    },
    /** Ends it where it stands. */
    async drop(): Promise<void> {
      isOver = true;
      await client.close({ timeoutMs: 0 });
      await Promise.all(partners);
    },
  };
}
