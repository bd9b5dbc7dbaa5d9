import {
  type CustomerEntry,
  type EntryFields,
  FIELDS,
  type Field,
  MAX_CUSTOMER_ID_LENGTH,
  MAX_REFUSED_OF_CUSTOMER,
  type RequestIds,
  toReceipt,
  type Version,
} from '@opm/core';
import { Prisma, type PrismaClient } from './generated/client.js';
import { toStoreError } from './store-error.js';
import { toArrayLiteral, toColumn, toTime } from './upsert-customers.js';

/** A letter as its partner may see it. `isReadable`: false if its payload cannot be read as an entry. */
export type RefusedLetter = {
  customerId: string;
  receipt: string;
  sqlState: string | null;
  field: Field | undefined;
  isReadable: boolean;
  requestIds: RequestIds | null;
  refusedAt: Date;
  state: 'refused' | 'replayed' | 'discarded';
};

/** A place in the list of a project's letters: when the letter was stored, in microseconds since 1970, and its id. */
export type LetterPlace = { micros: number; id: string };

/**
 * What partners see. Workers of the previous release do not store the receipt. It is then computed from the payload,
 * which an open letter still has.
 */
const REFUSED = Prisma.raw(`
  id, customer_id AS "customerId", version, receipt, field, sql_state AS "sqlState", created_at AS "createdAt",
  request_ids AS "requestIds", resolution, CASE WHEN receipt IS NULL THEN payload END AS payload, CASE WHEN receipt IS NULL THEN error END AS error,
  (extract(epoch FROM created_at) * 1000000)::bigint AS micros`);

/** Reads what partners see of dead letters. Letters without a project, or without one customer, are not among them. */
export function createRefusedLetters(prisma: PrismaClient) {
  return {
    /**
     * Finds what partners see of the letters of these customers, in their order: with a version, the newest letter of
     * that entry; otherwise at most 20, newest version first.
     */
    async findRefused(
      projectId: number,
      asked: { customerId: string; version?: Version | undefined }[],
    ): Promise<RefusedLetter[][]> {
      const rows = await toStoreError(
        () => prisma.$queryRaw<(RefusedRow & { place: number })[]>`
          SELECT asked.place::int, letter.*
          FROM unnest(
            ${toArrayLiteral(asked, ({ customerId }) => customerId)}::text[],
            ${toArrayLiteral(asked, ({ version }) => version)}::bigint[]
          ) WITH ORDINALITY AS asked (customer_id, version, place),
          LATERAL (
            (SELECT ${REFUSED} FROM dead_letters
             WHERE asked.version IS NULL AND project_id = ${projectId} AND customer_id = asked.customer_id
             ORDER BY version DESC LIMIT ${MAX_REFUSED_OF_CUSTOMER})
            UNION ALL
            (SELECT ${REFUSED} FROM dead_letters
             WHERE project_id = ${projectId} AND customer_id = asked.customer_id AND version = asked.version
             ORDER BY id DESC LIMIT 1)
          ) AS letter`,
      );
      const found: RefusedLetter[][] = asked.map(() => []);
      for (const row of rows) found[row.place - 1]?.push(toRefused(row));
      return found;
    },

    /** Lists what a partner sees of its project's letters, newest first, starting after the place `before`. */
    async listRefused(
      projectId: number,
      { since, before, limit }: { since: Date | undefined; before: LetterPlace | undefined; limit: number },
    ): Promise<{ letter: RefusedLetter; place: LetterPlace }[]> {
      const sinceMicros = since ? since.getTime() * 1_000 : 0;
      const { micros, id } = before ?? { micros: Number.MAX_SAFE_INTEGER, id: '0' };
      const rows = await toStoreError(
        () => prisma.$queryRaw<RefusedRow[]>`
          SELECT ${REFUSED} FROM dead_letters, (SELECT ${sinceMicros}::bigint, ${micros}::bigint) AS given (since, before)
          WHERE project_id = ${projectId} AND customer_id IS NOT NULL AND version IS NOT NULL
            AND created_at >= ${toTime('given.since')} AND (created_at, id) < (${toTime('given.before')}, ${BigInt(id)})
          ORDER BY created_at DESC, id DESC LIMIT ${limit}`,
      );
      return rows.map((row) => ({
        letter: toRefused(row),
        place: { micros: Number(row.micros), id: String(row.id) },
      }));
    },
  };
}

type RefusedRow = {
  id: bigint;
  customerId: string;
  version: bigint;
  receipt: string | null;
  field: string | null;
  sqlState: string | null;
  createdAt: Date;
  requestIds: RequestIds | null;
  resolution: 'replayed' | 'discarded' | null;
  payload: unknown;
  error: string | null;
  micros: bigint;
};

function toRefused({ receipt, field, createdAt, resolution, ...row }: RefusedRow): RefusedLetter {
  const { customerId, version, sqlState, requestIds } = row;
  const described = receipt === null ? describeLetter(row) : { receipt, field: FIELDS.find((name) => name === field) };
  return {
    customerId,
    sqlState,
    requestIds,
    refusedAt: createdAt,
    state: resolution ?? 'refused',
    isReadable: Boolean(described),
    receipt: described?.receipt ?? toReceipt({ customerId, version: Number(version) }),
    field: described?.field,
  };
}

/** Stores the receipts and fields of these letters, if their workers did not: the payload is about to be removed. */
export async function addReceipts(prisma: PrismaClient, ids: bigint[]): Promise<void> {
  const where = { id: { in: ids }, receipt: null, NOT: { projectId: null } };
  const bare = await prisma.deadLetter.findMany({ where });
  const known = bare.flatMap((letter) => {
    const described = describeLetter(letter);
    return described ? { id: String(letter.id), ...described } : [];
  });
  const column = (pick: (letter: (typeof known)[number]) => string | undefined) => toArrayLiteral(known, pick);
  if (known.length === 0) return;
  await prisma.$executeRaw`
    UPDATE dead_letters AS letter SET receipt = given.receipt, field = given.field
    FROM unnest(
      ${column(({ id }) => id)}::bigint[],
      ${column(({ receipt }) => receipt)}::text[],
      ${column(({ field }) => field)}::text[]
    ) AS given (id, receipt, field)
    WHERE letter.id = given.id`;
}

/** Returns the id, or undefined if the column or its index cannot hold it. Such an id is only in the payload. */
export function toIndexableId(customerId = ''): string | undefined {
  const isShort = customerId.length <= MAX_CUSTOMER_ID_LENGTH || [...customerId].length <= MAX_CUSTOMER_ID_LENGTH;
  const isStorable = isShort && customerId.isWellFormed() && !customerId.includes('\0');
  return customerId !== '' && isStorable ? customerId : undefined;
}

/** What partners see of a new letter; nothing if it holds the data of a whole job, or an id that no column can hold. */
export function describeNew({ projectId, entry, error }: { projectId?: number; entry?: CustomerEntry; error: string }) {
  const customerId = toIndexableId(entry?.customerId);
  if (projectId === undefined || !entry || customerId === undefined) return undefined;
  return describeLetter({ customerId, version: BigInt(entry.version), payload: entry, error });
}

type Description = { receipt: string; field: Field | undefined };

/** What a letter tells its partner. @returns undefined if it is not one entry that can be read */
function describeLetter(letter: {
  customerId: string | null;
  version: bigint | null;
  payload: unknown;
  error: string | null;
}): Description | undefined {
  const { customerId, version, payload, error } = letter;
  const { fields, erase } = (payload ?? {}) as Partial<CustomerEntry>;
  const isEntry = erase === true || FIELDS.some((field) => typeof fields?.[field] === 'string');
  if (customerId === null || version === null || !isEntry) return undefined;
  const entry = erase ? { customerId, version: Number(version) } : { customerId, version: Number(version), fields };
  return { receipt: toReceipt(entry as CustomerEntry), field: findField(error ?? '', fields) };
}

/** The field whose column the error names, or the only one that is too long for the type that it names. */
export function findField(error: string, fields: EntryFields = {}): Field | undefined {
  const [, ofColumn, ofConstraint] = NAMES_COLUMN.exec(error) ?? [];
  const [, limit] = TOO_LONG.exec(error) ?? [];
  const tooLong = FIELDS.filter((field) => [...(fields[field] ?? '')].length > Number(limit));
  const named = FIELDS.find((field) => toColumn(field) === (ofColumn ?? ofConstraint));
  return named ?? (tooLong.length === 1 ? tooLong[0] : undefined);
}

const NAMES_COLUMN = /\bcolumn "(\w+)"|"customers_(\w+?)_(?:check|key|idx|excl|not_null)\d*"/;
const TOO_LONG = /^value too long for type character(?: varying)?\((\d+)\)/;
