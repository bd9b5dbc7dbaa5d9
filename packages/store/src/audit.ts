import { toHint } from '@opm/core';
import { Prisma, type PrismaClient } from './generated/client.js';
import { escapeLike, toStoreError } from './store-error.js';

/** One thing that an operator did. It holds no personal data of customers beyond what names the target. */
export type AuditRecord = {
  /** Name of the operator in the console, or the user of the operating system who ran `opm`. */
  actor: string;
  source: 'console' | 'cli';
  /** IP address of the browser, or the host on which `opm` ran. */
  address?: string | undefined;
  /** Words of the command, such as `projects pause`; in the console the same words for the same thing. */
  action: string;
  /** Name of what changed, see {@link toCustomerTarget} for a customer. */
  target?: string | undefined;
  details?: Record<string, string | number | boolean | null> | undefined;
};

/** `not done`: it was refused, and changed nothing. `failed`: it may have been done, in part or as a whole. */
export type AuditOutcome = 'not done' | 'failed';

/** `outcome`: null if nothing is known to have gone wrong. */
export type StoredAuditRecord = {
  auditId: string;
  at: Date;
  actor: string;
  source: string;
  address: string | null;
  action: string;
  target: string | null;
  details: unknown;
  outcome: AuditOutcome | null;
};

/** `target`: a partner, with its customers and keys, or another target by its whole name. */
export type AuditFilter = { actor?: string | undefined; target?: string | undefined; since?: Date | undefined };

export type Audit = ReturnType<typeof createAudit>;

/** A second row of the same change has these details, because rows never change. */
type Outcome = { attempt: string; outcome: AuditOutcome };

/** The audit log. Rows are never changed or deleted: deploy/postgres/grants.sql gives no role the right to. */
export function createAudit(prisma: PrismaClient) {
  async function add({ details, ...row }: AuditRecord): Promise<string> {
    const data: Prisma.AuditEntryCreateInput = { ...row, ...(details && { details }) };
    const { id } = await toStoreError(() => prisma.auditEntry.create({ data, select: { id: true } }));
    return String(id);
  }

  return {
    /** Adds a row. Write it before the change, so that no change lacks its row. @returns its id */
    record: add,

    /** Adds that a recorded change was not done. @param attempt the id of its row */
    async recordOutcome(attempt: string, outcome: AuditOutcome, row: Omit<AuditRecord, 'details'>): Promise<void> {
      await add({ ...row, details: { attempt, outcome } satisfies Outcome });
    },

    /**
     * Lists the newest changes first, each with its outcome. An outcome is not listed by itself.
     * @param options.beforeId the id of the last row of the page before
     */
    async list(
      { actor, target, since }: AuditFilter,
      { limit, beforeId }: { limit: number; beforeId?: string | undefined },
    ): Promise<StoredAuditRecord[]> {
      const conditions = [
        Prisma.sql`details ->> 'attempt' IS NULL`,
        ...(actor === undefined ? [] : [Prisma.sql`actor = ${actor}`]),
        ...(target === undefined ? [] : [Prisma.sql`(target = ${target} OR target LIKE ${`${escapeLike(target)}/%`})`]),
        ...(since ? [Prisma.sql`at >= ${since}::timestamptz`] : []),
        ...(beforeId === undefined
          ? []
          : [Prisma.sql`(at, id) < (SELECT at, id FROM audit_log WHERE id = ${BigInt(beforeId)})`]),
      ];
      // The outcome may be much newer than its change, so the index of attempts finds it. With `ORDER BY id LIMIT 1`,
      // PostgreSQL would search all newer rows for it instead.
      return await toStoreError(
        () => prisma.$queryRaw<StoredAuditRecord[]>`
          WITH listed AS (
            SELECT * FROM audit_log WHERE ${Prisma.join(conditions, ' AND ')} ORDER BY at DESC, id DESC LIMIT ${limit}
          )
          SELECT id::text AS "auditId", at, actor, source, address, action, target, details, (
            SELECT (array_agg(later.details ->> 'outcome' ORDER BY later.id DESC))[1] FROM audit_log AS later
            WHERE later.details ->> 'attempt' = listed.id::text
          ) AS outcome
          FROM listed ORDER BY at DESC, id DESC`,
      );
    },
  };
}

/** Names a customer in the audit log. */
export const toCustomerTarget = (project: string, customerId: string): string => `${project}/${toHint(customerId)}…`;
