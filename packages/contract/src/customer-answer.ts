import type { Field } from '@opm/core';
import { FIELD_ENTRIES } from './entry.js';

/** The body of GET /entry/{customerId}. Every property of the customer is there, null where nothing is known. */
export type CustomerAnswer = {
  statusCode: 200;
  customer: { customerId: string; createdAt: Date | null; updatedAt: Date | null; [property: string]: unknown };
  pending: boolean;
};

type Stored = Record<Field, string | null> & { createdAt: Date; updatedAt: Date };

/** @param stored undefined where nothing of the customer is persisted yet */
export function toCustomerAnswer(customerId: string, stored: Stored | undefined, pending: boolean): CustomerAnswer {
  return {
    statusCode: 200,
    customer: {
      customerId,
      ...Object.fromEntries(FIELD_ENTRIES.map(([property, field]) => [property, stored?.[field] ?? null])),
      createdAt: stored?.createdAt ?? null,
      updatedAt: stored?.updatedAt ?? null,
    },
    pending,
  };
}
