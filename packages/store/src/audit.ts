import { toHint } from '@opm/core';
import type { Prisma, PrismaClient } from './generated/client.js';
import { toStoreError } from './store-error.js';

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

export type StoredAuditRecord = {
  auditId: string;
  at: Date;
  actor: string;
  source: string;
  address: string | null;
  action: string;
  target: string | null;
  details: unknown;
};

export type AuditFilter = { actor?: string | undefined; since?: Date | undefined };

export type Audit = ReturnType<typeof createAudit>;

/** The audit log. Rows are never changed or deleted: deploy/postgres/grants.sql gives no role the right to. */
export function createAudit(prisma: PrismaClient) {
  return {
    /** Adds a row. Write it before the change, so that no change lacks its row. */
    async record({ details, ...row }: AuditRecord): Promise<void> {
      const data: Prisma.AuditEntryCreateManyInput = { ...row, ...(details && { details }) };
      await toStoreError(() => prisma.auditEntry.createMany({ data }));
    },

    /** Lists the newest rows first. */
    async list({ actor, since }: AuditFilter, { limit }: { limit: number }): Promise<StoredAuditRecord[]> {
      const where = { ...(actor !== undefined && { actor }), ...(since && { at: { gte: since } }) };
      const rows = await toStoreError(() =>
        prisma.auditEntry.findMany({ where, orderBy: [{ at: 'desc' }, { id: 'desc' }], take: limit }),
      );
      return rows.map(({ id, ...row }) => ({ auditId: String(id), ...row }));
    },
  };
}

/** Names a customer in the audit log. */
export const toCustomerTarget = (project: string, customerId: string): string => `${project}/${toHint(customerId)}…`;
