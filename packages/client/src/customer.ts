/** What you know of a customer. What is left out, `null` or `''` keeps its stored value. */
export interface Customer {
  /** Your id: 1 to 255 characters, or a safe integer; 7519 and '7519' are the same customer. */
  customerId: string | number;
  /** At most 320 characters. Each entry needs an email or a phone. */
  customerEmail?: string | null | undefined;
  /** At most 64 characters. */
  customerPhone?: string | null | undefined;
  /** At most 255 characters. */
  customerFirstName?: string | null | undefined;
  /** At most 255 characters. */
  customerLastName?: string | null | undefined;
  /** At most 64 characters. */
  customerIP?: string | null | undefined;
}

/** A customer as it is stored; `null` where nothing is known. */
export interface StoredCustomer {
  customerId: string;
  customerEmail: string | null;
  customerPhone: string | null;
  customerFirstName: string | null;
  customerLastName: string | null;
  customerIP: string | null;
  /** UTC, such as 2026-11-24T17:00:00.000Z. */
  createdAt: string | null;
  updatedAt: string | null;
}

export interface FoundCustomer {
  customer: StoredCustomer;
  /** The newest entry that was accepted is not stored yet, so `customer` is without it. */
  pending: boolean;
}
