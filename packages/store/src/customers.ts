import { FIELDS } from '@opm/core';
import type { PrismaClient } from './generated/client.js';
import { toStoreError } from './store-error.js';
import { type CustomerRow, upsertCustomers } from './upsert-customers.js';

export type StoredCustomer = {
  projectId: number;
  customerId: string;
  email: string | null;
  phone: string | null;
  firstName: string | null;
  lastName: string | null;
  ip: string | null;
  createdAt: Date;
  updatedAt: Date;
};

export type Customers = ReturnType<typeof createCustomers>;

/** A row without these two is the tombstone of an erasure: every entry gives at least one of them. */
const isLive = { OR: [{ email: { not: null } }, { phone: { not: null } }] };

const visible = Object.fromEntries(
  (['projectId', 'customerId', ...FIELDS, 'createdAt', 'updatedAt'] as const).map((column) => [column, true]),
) as { [Column in keyof StoredCustomer]: true };

export function createCustomers(prisma: PrismaClient) {
  return {
    /** Merges the rows into the table with one statement; each (projectId, customerId) at most once. */
    upsert: (rows: CustomerRow[]): Promise<void> => toStoreError(() => upsertCustomers(prisma, rows)),

    async find(projectId: number, customerId: string): Promise<StoredCustomer | undefined> {
      const customer = await toStoreError(() =>
        prisma.customer.findFirst({ where: { projectId, customerId, ...isLive }, select: visible }),
      );
      return customer ?? undefined;
    },

    /** Which of these customers exist. */
    async findExisting(projectId: number, customerIds: string[]): Promise<Set<string>> {
      const rows = await toStoreError(
        () => prisma.$queryRaw<{ id: string }[]>`
          SELECT customer_id AS id
          FROM customers
          WHERE project_id = ${projectId} AND customer_id = ANY (${customerIds}::text[])
            AND (email IS NOT NULL OR phone IS NOT NULL)`,
      );
      return new Set(rows.map(({ id }) => id));
    },
  };
}
