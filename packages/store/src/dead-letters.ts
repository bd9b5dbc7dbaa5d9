import type { CustomerEntry } from '@opm/core';
import { Prisma, type PrismaClient } from './generated/client.js';
import type { HighWaterMark } from './high-water-mark.js';
import { toStoreError } from './store-error.js';
import { toArrayLiteral } from './upsert-customers.js';

/** An entry that could not be persisted or, without `entry`, job data that is not a chunk. */
export type DeadLetter = {
  projectId?: number;
  entry?: CustomerEntry;
  /** Stored unchanged. */
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

export type WholeDeadLetter = StoredDeadLetter & { payload: unknown };

/** Selects the dead letters that match all given properties. */
export type DeadLetterFilter = {
  deadLetterId?: string | undefined;
  projectId?: number | undefined;
  customerId?: string | undefined;
  /** Became a dead letter at this time or later. */
  since?: Date | undefined;
  /** Became a dead letter before this time. */
  until?: Date | undefined;
  /** The error contains this text, in any case. */
  error?: string | undefined;
  /** A SQLSTATE, or its first characters, such as the class. */
  sqlState?: string | undefined;
};

export type DeadLetterCount = { projectId: number | null; sqlState: string | null; count: number };

export type DeadLetters = ReturnType<typeof createDeadLetters>;

const TAKE_TIMEOUT_MS = 30_000;

export function createDeadLetters(prisma: PrismaClient, mark: HighWaterMark) {
  return {
    /**
     * Stores dead letters. An entry that has one already, because its job ran twice, gets no second one. An erased
     * entry gets none.
     *
     * Inserts the letters first and then deletes the erased ones. {@link noteErasures} also writes first and then
     * deletes, so a concurrent letter and erasure cannot miss each other.
     */
    async add(letters: DeadLetter[]): Promise<void> {
      const column = (pick: (letter: DeadLetter) => string | number | undefined) => toArrayLiteral(letters, pick);
      const keys = Prisma.sql`
        ${column(({ projectId }) => projectId)}::int[],
        ${column(({ entry }) => toIndexableId(entry?.customerId))}::text[],
        ${column(({ entry }) => entry?.version)}::bigint[]`;
      const versions = letters.flatMap(({ entry }) => entry?.version ?? []);
      await mark.write(
        versions,
        () => prisma.$executeRaw`
          INSERT INTO dead_letters (project_id, customer_id, version, payload, error, sql_state)
          SELECT * FROM unnest(
            ${keys},
            ${column(({ payload }) => JSON.stringify(payload) ?? 'null')}::json[],
            ${column(({ error }) => error)}::text[],
            ${column(({ sqlState }) => sqlState)}::text[]
          )
          ON CONFLICT DO NOTHING`,
      );
      await toStoreError(
        () => prisma.$executeRaw`
          DELETE FROM dead_letters AS letter
          USING erasures AS erased, unnest(${keys}) AS given (project_id, customer_id, version)
          WHERE letter.project_id = given.project_id AND letter.customer_id = given.customer_id
            AND letter.version = given.version AND erased.project_id = given.project_id
            AND erased.customer_id = given.customer_id AND erased.version >= given.version`,
      );
    },

    /** Lists the newest letters first, without payloads; with `beforeId`, those that are older than this letter. */
    async list(
      filter: DeadLetterFilter,
      { limit, beforeId }: { limit: number; beforeId?: string | undefined },
    ): Promise<StoredDeadLetter[]> {
      const older = beforeId === undefined ? {} : { id: { lt: BigInt(beforeId) } };
      const rows = await toStoreError(() =>
        prisma.deadLetter.findMany({
          where: { AND: [toWhere(filter), older] },
          omit: { payload: true },
          orderBy: { id: 'desc' },
          take: limit,
        }),
      );
      return rows.map(toStored);
    },

    /** Finds one letter, with its payload. */
    async find(deadLetterId: string): Promise<WholeDeadLetter | undefined> {
      const row = await toStoreError(() => prisma.deadLetter.findUnique({ where: { id: BigInt(deadLetterId) } }));
      return row ? toStored(row) : undefined;
    },

    /** Counts the letters by project and SQLSTATE, the largest count first. */
    async count(filter: DeadLetterFilter): Promise<DeadLetterCount[]> {
      const groups = await toStoreError(() =>
        prisma.deadLetter.groupBy({ by: ['projectId', 'sqlState'], where: toWhere(filter), _count: { id: true } }),
      );
      return groups
        .map(({ projectId, sqlState, _count }) => ({ projectId, sqlState, count: _count.id }))
        .toSorted((a, b) => b.count - a.count);
    },

    /** Returns the oldest letters after `afterId` and up to `throughId`, with payloads. */
    async page(
      filter: DeadLetterFilter,
      { afterId, throughId, limit }: { afterId: string; throughId: string; limit: number },
    ): Promise<WholeDeadLetter[]> {
      const rows = await toStoreError(() =>
        prisma.deadLetter.findMany({
          where: { AND: [toWhere(filter), { id: { gt: BigInt(afterId), lte: BigInt(throughId) } }] },
          orderBy: { id: 'asc' },
          take: limit,
        }),
      );
      return rows.map(toStored);
    },

    /**
     * Deletes the letters and passes the ids of those that still existed to `deliver`. If `deliver` throws, they stay.
     *
     * The transaction deletes the letters, calls `deliver` and commits. If the database rejects a letter's entry again
     * meanwhile, `add` waits for the commit and then stores the entry, instead of dropping it as a duplicate.
     * @returns the number of letters delivered
     */
    take(deadLetterIds: string[], deliver: (taken: Set<string>) => Promise<void>): Promise<number> {
      return toStoreError(() =>
        prisma.$transaction(
          async (transaction) => {
            // If this process freezes, its lock on the letters ends after 10 s.
            await transaction.$executeRaw`SET LOCAL idle_in_transaction_session_timeout = '10s'`;
            const rows = await transaction.$queryRaw<{ id: bigint }[]>`
              DELETE FROM dead_letters WHERE id = ANY(${deadLetterIds.map(BigInt)}::bigint[]) RETURNING id`;
            if (rows.length > 0) await deliver(new Set(rows.map(({ id }) => String(id))));
            return rows.length;
          },
          { timeout: TAKE_TIMEOUT_MS, maxWait: TAKE_TIMEOUT_MS },
        ),
      );
    },

    /** Deletes the letters permanently. @returns the number of letters */
    async discard(filter: DeadLetterFilter): Promise<number> {
      const { count } = await toStoreError(() => prisma.deadLetter.deleteMany({ where: toWhere(filter) }));
      return count;
    },
  };
}

function toWhere({
  deadLetterId,
  projectId,
  customerId,
  since,
  until,
  error,
  sqlState,
}: DeadLetterFilter): Prisma.DeadLetterWhereInput {
  return {
    ...(deadLetterId === undefined ? {} : { id: BigInt(deadLetterId) }),
    ...(projectId === undefined ? {} : { projectId }),
    ...(customerId === undefined ? {} : { customerId }),
    ...(since || until ? { createdAt: { ...(since && { gte: since }), ...(until && { lt: until }) } } : {}),
    ...(error === undefined ? {} : { error: { contains: escapeLike(error), mode: 'insensitive' } }),
    ...(sqlState === undefined ? {} : { sqlState: { startsWith: escapeLike(sqlState) } }),
  };
}

// Prisma's `contains` and `startsWith` become LIKE and do not escape its wildcards.
const escapeLike = (text: string) => text.replace(/[\\%_]/g, '\\$&');

function toStored<Row extends { id: bigint; version: bigint | null }>({ id, version, ...row }: Row) {
  return { deadLetterId: String(id), ...row, version: version === null ? null : String(version) };
}

/** In code points, as in the contract. */
const MAX_INDEXED_LENGTH = 255;

/** Returns the id, or undefined if the column or its index cannot hold it. Such an id is only in the payload. */
function toIndexableId(customerId = ''): string | undefined {
  const isShort = customerId.length <= MAX_INDEXED_LENGTH || [...customerId].length <= MAX_INDEXED_LENGTH;
  const isStorable = isShort && customerId.isWellFormed() && !customerId.includes('\0');
  return customerId !== '' && isStorable ? customerId : undefined;
}
