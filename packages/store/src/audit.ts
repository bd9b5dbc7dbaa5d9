import { toHint } from '@opm/core';
import type { Prisma, PrismaClient } from './generated/client.js';
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
     * Lists the newest rows first, each with its outcome.
     * @param options.beforeId the id of the last row of the page before
     */
    async list(
      { actor, target, since }: AuditFilter,
      { limit, beforeId }: { limit: number; beforeId?: string | undefined },
    ): Promise<StoredAuditRecord[]> {
      const where = {
        ...(actor !== undefined && { actor }),
        ...(target !== undefined && { OR: [{ target }, { target: { startsWith: `${escapeLike(target)}/` } }] }),
        ...(since && { at: { gte: since } }),
      };
      const rows = await toStoreError(() =>
        prisma.auditEntry.findMany({
          where,
          orderBy: [{ at: 'desc' }, { id: 'desc' }],
          take: limit,
          ...(beforeId !== undefined && { cursor: { id: BigInt(beforeId) }, skip: 1 }),
        }),
      );
      const outcomes = new Map(rows.map(({ details }) => [toOutcome(details)?.attempt, toOutcome(details)?.outcome]));
      const listed = new Set(rows.map(({ id }) => String(id)));
      return rows
        .filter(({ details }) => !listed.has(toOutcome(details)?.attempt ?? ''))
        .map(({ id, ...row }) => {
          const outcome = toOutcome(row.details)?.outcome ?? outcomes.get(String(id)) ?? null;
          return { auditId: String(id), ...row, outcome };
        });
    },
  };
}

function toOutcome(details: unknown): Outcome | undefined {
  const { attempt, outcome } = (details ?? {}) as Partial<Outcome>;
  return attempt !== undefined && outcome !== undefined ? { attempt, outcome } : undefined;
}

/** Names a customer in the audit log. */
export const toCustomerTarget = (project: string, customerId: string): string => `${project}/${toHint(customerId)}…`;
