import { query, waitFor } from '@opm/testkit';

const PATIENCE_MS = 300_000;

export type Rows = ReturnType<typeof createRows>;

/** Reads the rows of a project's customers. */
export function createRows(databaseUrl: string, projectId: number) {
  async function count(): Promise<number> {
    const statement = 'SELECT count(*)::int AS n FROM customers WHERE project_id = $1';
    const [row] = await query<{ n: number }>(databaseUrl, statement, [projectId]);
    return row?.n ?? 0;
  }

  async function findPhones(): Promise<Map<string, string>> {
    const statement = 'SELECT customer_id, phone FROM customers WHERE project_id = $1';
    const rows = await query<{ customer_id: string; phone: string }>(databaseUrl, statement, [projectId]);
    return new Map(rows.map(({ customer_id, phone }) => [customer_id, phone]));
  }

  return {
    count,
    findPhones,
    /** Resolves when there are at least this many rows. */
    async reach(least: number): Promise<void> {
      const isReached = async () => (await count()) >= least;
      await waitFor(isReached, { description: `${least} customers to be stored`, timeoutMs: PATIENCE_MS });
    },
    /** Resolves when there are more rows than now. */
    async grow(): Promise<void> {
      await this.reach((await count()) + 1);
    },
    /** Resolves when each of these customers has this phone. */
    async catchUp(phones: ReadonlyMap<string, string>): Promise<void> {
      const isThere = async () => {
        const stored = await findPhones();
        return [...phones].every(([customerId, phone]) => stored.get(customerId) === phone);
      };
      await waitFor(isThere, { description: 'all acknowledged entries to be stored', timeoutMs: PATIENCE_MS });
    },
  };
}
