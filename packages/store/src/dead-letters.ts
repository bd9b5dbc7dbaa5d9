import type { CustomerEntry } from '@opm/core';
import type { PrismaClient } from './generated/client.js';
import { toStoreError } from './store-error.js';

/** What could not be persisted: an entry with its version, or, without `entry`, a job's data that is no chunk. */
export type DeadLetter = {
  projectId?: number;
  entry?: CustomerEntry;
  /** Kept to the letter. */
  payload: unknown;
  error: string;
  sqlState?: string | undefined;
};

export type StoredDeadLetter = {
  deadLetterId: string;
  projectId: number | null;
  customerId: string | null;
  version: string | null;
  error: string;
  sqlState: string | null;
  createdAt: Date;
};

export type DeadLetters = ReturnType<typeof createDeadLetters>;

export function createDeadLetters(prisma: PrismaClient) {
  return {
    /** Keeps them; an entry that is there already, because its job was handed on, is kept once. */
    async add(letters: DeadLetter[]): Promise<void> {
      for (const { projectId = null, entry, payload, error, sqlState = null } of letters) {
        const customerId = toIndexed(entry?.customerId);
        const json = JSON.stringify(payload) ?? 'null';
        await toStoreError(
          () => prisma.$executeRaw`
            INSERT INTO dead_letters (project_id, customer_id, version, payload, error, sql_state)
            VALUES (${projectId}, ${customerId}, ${entry?.version ?? null}::bigint, ${json}::json, ${error}, ${sqlState})
            ON CONFLICT DO NOTHING`,
        );
      }
    },

    /** The newest first, without their payloads. */
    async list({ projectId, limit }: { projectId?: number | undefined; limit: number }): Promise<StoredDeadLetter[]> {
      const rows = await toStoreError(() =>
        prisma.deadLetter.findMany({
          where: projectId === undefined ? {} : { projectId },
          omit: { payload: true },
          orderBy: { id: 'desc' },
          take: limit,
        }),
      );
      return rows.map(({ id, version, ...row }) => ({
        deadLetterId: String(id),
        ...row,
        version: version === null ? null : String(version),
      }));
    },

    /** One of them, whole. */
    async find(deadLetterId: string): Promise<(StoredDeadLetter & { payload: unknown }) | undefined> {
      const row = await toStoreError(() => prisma.deadLetter.findUnique({ where: { id: BigInt(deadLetterId) } }));
      if (!row) return undefined;
      const { id, version, ...rest } = row;
      return { deadLetterId: String(id), ...rest, version: version === null ? null : String(version) };
    },
  };
}

const MAX_INDEXED_LENGTH = 255;

/** The customer may be what was refused: an id that no column and no index can hold stands in the payload only. */
function toIndexed(customerId = ''): string | null {
  const holdable = customerId.length <= MAX_INDEXED_LENGTH && customerId.isWellFormed() && !customerId.includes('\0');
  return customerId !== '' && holdable ? customerId : null;
}
