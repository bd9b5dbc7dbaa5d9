import type { CustomerEntry } from '@opm/core';
import { toArrayLiteral } from './array-literal.js';
import { Prisma, type PrismaClient } from './generated/client.js';
import type { HighWaterMark } from './high-water-mark.js';
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

export type WholeDeadLetter = StoredDeadLetter & { payload: unknown };

/** Which letters are meant: those for which everything that is given holds. */
export type DeadLetterFilter = {
  deadLetterId?: string | undefined;
  projectId?: number | undefined;
  /** When it became a dead letter: from this time on, … */
  since?: Date | undefined;
  /** … and before this one. */
  until?: Date | undefined;
  /** A part of the error's text, in upper or lower case. */
  error?: string | undefined;
  /** A SQLSTATE, or what it begins with. */
  sqlState?: string | undefined;
};

export type DeadLetterCount = { projectId: number | null; sqlState: string | null; count: number };

export type DeadLetters = ReturnType<typeof createDeadLetters>;

const TAKE_TIMEOUT_MS = 30_000;

export function createDeadLetters(prisma: PrismaClient, mark: HighWaterMark) {
  return {
    /**
     * Keeps them; an entry that is there already, because its job was handed on, is kept once, and one that was erased not at
     * all. Erasures are looked for when the letters are there: each side writes first and then looks for the other's, so a
     * letter and an erasure that come at the same time cannot miss each other ({@link noteErasures}).
     */
    async add(letters: DeadLetter[]): Promise<void> {
      const column = (pick: (letter: DeadLetter) => string | number | undefined) => toArrayLiteral(letters, pick);
      const keys = Prisma.sql`
        ${column(({ projectId }) => projectId)}::int[],
        ${column(({ entry }) => toIndexed(entry?.customerId))}::text[],
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

    /** The newest first, without their payloads. */
    async list(filter: DeadLetterFilter, { limit }: { limit: number }): Promise<StoredDeadLetter[]> {
      const rows = await toStoreError(() =>
        prisma.deadLetter.findMany({
          where: toWhere(filter),
          omit: { payload: true },
          orderBy: { id: 'desc' },
          take: limit,
        }),
      );
      return rows.map(toStored);
    },

    /** One of them, whole. */
    async find(deadLetterId: string): Promise<WholeDeadLetter | undefined> {
      const row = await toStoreError(() => prisma.deadLetter.findUnique({ where: { id: BigInt(deadLetterId) } }));
      return row ? toStored(row) : undefined;
    },

    /** How many there are, by project and SQLSTATE, the most first. */
    async count(filter: DeadLetterFilter): Promise<DeadLetterCount[]> {
      const groups = await toStoreError(() =>
        prisma.deadLetter.groupBy({ by: ['projectId', 'sqlState'], where: toWhere(filter), _count: { id: true } }),
      );
      return groups
        .map(({ projectId, sqlState, _count }) => ({ projectId, sqlState, count: _count.id }))
        .toSorted((a, b) => b.count - a.count);
    },

    /** The oldest ones after `afterId` and up to `throughId`, whole. */
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
     * Removes the letters once `hand` has passed them on; what it throws leaves them where they are. `hand` gets those
     * that nobody else has taken. They are deleted before it is called, in a transaction that ends after it: a letter
     * whose entry is refused once more meanwhile waits for that end, and is kept again instead of being a duplicate.
     * @returns how many were passed on
     */
    take(deadLetterIds: string[], hand: (taken: Set<string>) => Promise<void>): Promise<number> {
      return toStoreError(() =>
        prisma.$transaction(
          async (transaction) => {
            // Where this process freezes in the middle, nobody else waits for its letters for long.
            await transaction.$executeRaw`SET LOCAL idle_in_transaction_session_timeout = '10s'`;
            const rows = await transaction.$queryRaw<{ id: bigint }[]>`
              DELETE FROM dead_letters WHERE id = ANY(${deadLetterIds.map(BigInt)}::bigint[]) RETURNING id`;
            if (rows.length > 0) await hand(new Set(rows.map(({ id }) => String(id))));
            return rows.length;
          },
          { timeout: TAKE_TIMEOUT_MS, maxWait: TAKE_TIMEOUT_MS },
        ),
      );
    },

    /** Deletes them for good. @returns how many */
    async discard(filter: DeadLetterFilter): Promise<number> {
      const { count } = await toStoreError(() => prisma.deadLetter.deleteMany({ where: toWhere(filter) }));
      return count;
    },
  };
}

function toWhere({
  deadLetterId,
  projectId,
  since,
  until,
  error,
  sqlState,
}: DeadLetterFilter): Prisma.DeadLetterWhereInput {
  return {
    ...(deadLetterId === undefined ? {} : { id: BigInt(deadLetterId) }),
    ...(projectId === undefined ? {} : { projectId }),
    ...(since || until ? { createdAt: { ...(since && { gte: since }), ...(until && { lt: until }) } } : {}),
    ...(error === undefined ? {} : { error: { contains: escapeLike(error), mode: 'insensitive' } }),
    ...(sqlState === undefined ? {} : { sqlState: { startsWith: escapeLike(sqlState) } }),
  };
}

// Prisma's `contains` and `startsWith` are a LIKE that leaves its wildcards alone.
const escapeLike = (text: string) => text.replace(/[\\%_]/g, '\\$&');

function toStored<Row extends { id: bigint; version: bigint | null }>({ id, version, ...row }: Row) {
  return { deadLetterId: String(id), ...row, version: version === null ? null : String(version) };
}

/** In code points, as the contract counts them. */
const MAX_INDEXED_LENGTH = 255;

/** The customer may be what was refused: an id that no column and no index can hold stands in the payload only. */
function toIndexed(customerId = ''): string | undefined {
  const isShort = customerId.length <= MAX_INDEXED_LENGTH || [...customerId].length <= MAX_INDEXED_LENGTH;
  const isHoldable = isShort && customerId.isWellFormed() && !customerId.includes('\0');
  return customerId !== '' && isHoldable ? customerId : undefined;
}
