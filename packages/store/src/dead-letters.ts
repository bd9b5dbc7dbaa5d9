import { type CustomerEntry, type RequestIds, toDate } from '@opm/core';
import { Prisma, type PrismaClient } from './generated/client.js';
import type { HighWaterMark } from './high-water-mark.js';
import { addReceipts, createRefusedLetters, describeNew, toIndexableId } from './refused-letters.js';
import { escapeLike, toStoreError } from './store-error.js';
import { toArrayLiteral } from './upsert-customers.js';

/** An entry that could not be persisted or, without `entry`, job data that is not a chunk. */
export type DeadLetter = {
  projectId?: number;
  entry?: CustomerEntry;
  requestIds?: RequestIds | undefined;
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

export type WholeDeadLetter = StoredDeadLetter & { payload: unknown; requestIds: unknown };

/** Selects the open dead letters that match all given properties. */
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
  /** No letter that is newer than this one. */
  throughId?: string | undefined;
};

/** `first` and `last`: when the entries were received, also if they were replayed; of whole jobs, when they failed. */
export type DeadLetterCount = Pick<StoredDeadLetter, 'projectId' | 'sqlState'> & {
  count: number;
  first: Date;
  last: Date;
  newestId: string;
};

export type DeadLetters = ReturnType<typeof createDeadLetters>;

const TAKE_TIMEOUT_MS = 30_000;
/** Letters that one statement discards or purges. */
const BATCH = 1_000;
const SHOWN = {
  ...{ id: true, projectId: true, customerId: true, version: true },
  ...{ error: true, sqlState: true, createdAt: true },
};
const WHOLE = { ...SHOWN, payload: true, requestIds: true };

/**
 * A letter is open until it is replayed or discarded. Then it stays for 30 days without its payload and its error, for
 * the partner to see; if it holds the data of a whole job, it is deleted. An erasure deletes the customer's older
 * letters. Operators see open letters only.
 */
export function createDeadLetters(prisma: PrismaClient, mark: HighWaterMark) {
  /** @returns the ids of the letters that were open */
  async function resolve(
    client: Pick<PrismaClient, '$queryRaw'>,
    ids: bigint[],
    resolution: 'replayed' | 'discarded',
  ): Promise<string[]> {
    const rows = await client.$queryRaw<{ id: bigint }[]>`
      WITH kept AS (
        UPDATE dead_letters
        SET resolution = ${resolution}, resolved_at = clock_timestamp(), payload = 'null', error = ''
        WHERE id = ANY(${ids}::bigint[]) AND resolution IS NULL
          AND project_id IS NOT NULL AND customer_id IS NOT NULL AND version IS NOT NULL RETURNING id
      ), gone AS (
        DELETE FROM dead_letters WHERE id = ANY(${ids}::bigint[])
          AND (project_id IS NULL OR customer_id IS NULL OR version IS NULL) RETURNING id
      )
      SELECT id FROM kept UNION ALL SELECT id FROM gone`;
    return rows.map(({ id }) => String(id));
  }

  return {
    /**
     * Stores dead letters. An entry gets none if it is erased, or if it has an open letter because its job ran twice.
     * If its letter was replayed or discarded, the new one replaces it.
     *
     * Inserts the letters first and then deletes the erased ones. {@link noteErasures} also writes first and then
     * deletes, so a concurrent letter and erasure cannot miss each other.
     * @returns the letters of entries that had none
     */
    async add(letters: DeadLetter[]): Promise<DeadLetter[]> {
      const column = (pick: (letter: DeadLetter) => string | number | undefined) => toArrayLiteral(letters, pick);
      const keys = Prisma.sql`
        ${column(({ projectId }) => projectId)}::int[],
        ${column(({ entry }) => toIndexableId(entry?.customerId))}::text[],
        ${column(({ entry }) => entry?.version)}::bigint[]`;
      const versions = letters.flatMap(({ entry }) => entry?.version ?? []);
      const described = letters.map(describeNew);
      const added = await mark.write(
        versions,
        () => prisma.$queryRaw<{ key: string }[]>`
          INSERT INTO dead_letters (project_id, customer_id, version, payload, error, sql_state, receipt, field, request_ids)
          SELECT * FROM unnest(
            ${keys},
            ${column(({ payload }) => JSON.stringify(payload) ?? 'null')}::json[],
            ${column(({ error }) => error)}::text[],
            ${column(({ sqlState }) => sqlState)}::text[],
            ${toArrayLiteral(described, (seen) => seen?.receipt)}::text[],
            ${toArrayLiteral(described, (seen) => seen?.field)}::text[],
            ${column(({ requestIds }) => requestIds && JSON.stringify(requestIds))}::jsonb[]
          )
          ON CONFLICT DO NOTHING RETURNING concat(project_id, ' ', version, ' ', customer_id) AS key`,
      );
      const gone = await toStoreError(
        () => prisma.$queryRaw<{ key: string }[]>`
          WITH given AS (SELECT * FROM unnest(${keys}) AS given (project_id, customer_id, version))
          DELETE FROM dead_letters AS letter USING given
          WHERE letter.project_id = given.project_id AND letter.customer_id = given.customer_id
            AND letter.version = given.version AND (
              EXISTS (
                SELECT FROM erasures AS erased
                WHERE erased.project_id = given.project_id AND erased.customer_id = given.customer_id
                  AND erased.version >= given.version
              ) OR letter.resolution IS NOT NULL AND EXISTS (
                SELECT FROM dead_letters AS open
                WHERE open.project_id = given.project_id AND open.customer_id = given.customer_id
                  AND open.version = given.version AND open.resolution IS NULL
              )
            )
          RETURNING concat(letter.project_id, ' ', letter.version, ' ', letter.customer_id) AS key`,
      );
      const isNew = new Set(added.map(({ key }) => key));
      for (const { key } of gone) isNew.delete(key);
      return letters.filter(({ projectId, entry }) =>
        isNew.has([projectId, entry?.version, toIndexableId(entry?.customerId)].join(' ')),
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
          select: SHOWN,
          orderBy: { id: 'desc' },
          take: limit,
        }),
      );
      return rows.map(toStored);
    },

    /** Finds one letter, whole. */
    async find(deadLetterId: string): Promise<WholeDeadLetter | undefined> {
      const where = toWhere({ deadLetterId });
      const row = await toStoreError(() => prisma.deadLetter.findFirst({ where, select: WHOLE }));
      return row ? toStored(row) : undefined;
    },

    /** Counts the letters by project and SQLSTATE, the largest count first. */
    async count(filter: DeadLetterFilter): Promise<DeadLetterCount[]> {
      const [where, edges] = [toWhere(filter), { createdAt: true, version: true, id: true } as const];
      const groups = await toStoreError(() =>
        prisma.deadLetter.groupBy({
          by: ['projectId', 'sqlState'],
          where,
          _count: { id: true },
          _min: edges,
          _max: edges,
        }),
      );
      return groups.map(toGroup).toSorted((a, b) => b.count - a.count);
    },

    /** Counts the letters that were replayed since then, and that no letter of the same entry has replaced. */
    countReplayed({ error: _, ...filter }: DeadLetterFilter, since: Date): Promise<number> {
      const where = { ...toWhere(filter), resolution: 'replayed', resolvedAt: { gte: since } };
      return toStoreError(() => prisma.deadLetter.count({ where }));
    },

    /** Returns the oldest letters after `afterId` and up to `throughId`, with payloads. */
    async page(
      filter: DeadLetterFilter,
      { afterId, throughId, limit }: { afterId: string; throughId: string; limit: number },
    ): Promise<WholeDeadLetter[]> {
      const rows = await toStoreError(() =>
        prisma.deadLetter.findMany({
          where: { AND: [toWhere(filter), { id: { gt: BigInt(afterId), lte: BigInt(throughId) } }] },
          select: WHOLE,
          orderBy: { id: 'asc' },
          take: limit,
        }),
      );
      return rows.map(toStored);
    },

    /**
     * Marks letters as replayed and passes the ids of those that were open to `deliver`. If it throws, they stay open.
     *
     * The transaction marks the letters, calls `deliver` and commits. If the database rejects a letter's entry again
     * meanwhile, `add` waits for the commit and then stores the entry. @returns the number of letters delivered
     */
    take(deadLetterIds: string[], deliver: (taken: Set<string>) => Promise<void>): Promise<number> {
      const ids = deadLetterIds.map(BigInt);
      return toStoreError(async () => {
        await addReceipts(prisma, ids);
        return prisma.$transaction(
          async (transaction) => {
            // If this process freezes, its lock on the letters ends after 10 s.
            await transaction.$executeRaw`SET LOCAL idle_in_transaction_session_timeout = '10s'`;
            const taken = await resolve(transaction, ids, 'replayed');
            if (taken.length > 0) await deliver(new Set(taken));
            return taken.length;
          },
          { timeout: TAKE_TIMEOUT_MS, maxWait: TAKE_TIMEOUT_MS },
        );
      });
    },

    /** Marks the letters as discarded, for good. @returns the number of letters */
    discard(filter: DeadLetterFilter): Promise<number> {
      const page = (range: Prisma.DeadLetterWhereInput, order: 'asc' | 'desc', take: number) =>
        prisma.deadLetter.findMany({
          where: { AND: [toWhere(filter), range] },
          select: { id: true },
          orderBy: { id: order },
          take,
        });
      return toStoreError(async () => {
        const [newest] = await page({}, 'desc', 1);
        let [discarded, gt] = [0, 0n];
        for (;;) {
          const ids = (await page({ id: { gt, lte: newest?.id ?? 0 } }, 'asc', BATCH)).map(({ id }) => id);
          await addReceipts(prisma, ids);
          discarded += (await resolve(prisma, ids, 'discarded')).length;
          if (ids.length < BATCH) return discarded;
          gt = ids.at(-1) as bigint;
        }
      });
    },

    /** Deletes the letters that were replayed or discarded more than 30 days ago. @returns the number of letters */
    async purge(): Promise<number> {
      let purged = 0;
      for (let count = BATCH; count === BATCH; purged += count) {
        count = await toStoreError(
          () => prisma.$executeRaw`
            DELETE FROM dead_letters WHERE id IN (
              SELECT id FROM dead_letters WHERE resolved_at < now() - interval '30 days'
              ORDER BY resolved_at LIMIT ${BATCH} FOR UPDATE SKIP LOCKED
            )`,
        );
      }
      return purged;
    },

    ...createRefusedLetters(prisma),
  };
}

function toWhere(filter: DeadLetterFilter): Prisma.DeadLetterWhereInput {
  const { deadLetterId, projectId, customerId, since, until, error, sqlState, throughId } = filter;
  return {
    resolution: null,
    ...(deadLetterId === undefined ? {} : { id: BigInt(deadLetterId) }),
    ...(throughId === undefined ? {} : { AND: { id: { lte: BigInt(throughId) } } }),
    ...(projectId === undefined ? {} : { projectId }),
    ...(customerId === undefined ? {} : { customerId }),
    ...(since || until ? { createdAt: { ...(since && { gte: since }), ...(until && { lt: until }) } } : {}),
    ...(error === undefined ? {} : { error: { contains: escapeLike(error), mode: 'insensitive' } }),
    ...(sqlState === undefined ? {} : { sqlState: { startsWith: escapeLike(sqlState) } }),
  };
}

function toStored<Row extends { id: bigint; version: bigint | null }>({ id, version, ...row }: Row) {
  return { deadLetterId: String(id), ...row, version: version === null ? null : String(version) };
}

type Group = Pick<DeadLetterCount, 'projectId' | 'sqlState'> & { _count: { id: number }; _min: Edge; _max: Edge };
type Edge = { createdAt: Date | null; version: bigint | null; id: bigint | null };

function toGroup({ projectId, sqlState, _count, _min, _max }: Group): DeadLetterCount {
  const toTime = ({ version, createdAt }: Edge) => (version === null ? (createdAt as Date) : toDate(Number(version)));
  const newestId = String(_max.id);
  return { projectId, sqlState, count: _count.id, first: toTime(_min), last: toTime(_max), newestId };
}
