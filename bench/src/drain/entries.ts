import type { CustomerEntry } from '@opm/core';

const T0 = Date.now() * 1_000;

/** Distinct customers with all fields; each pass gives the same customers newer versions and other values. */
export function makeEntries(count: number, pass: number): CustomerEntry[] {
  return Array.from({ length: count }, (_, i) => makeEntry(i, T0 + pass * count + i, pass));
}

export function makeEntry(i: number, version: number, pass = 0): CustomerEntry {
  return {
    customerId: `customer-${i}`,
    version,
    fields: {
      email: `customer.${i}.${pass}@example.com`,
      phone: `+49 30 ${pass} ${i}`,
      firstName: `First ${i}`,
      lastName: `Last ${pass} ${i}`,
      ip: `10.${(i >> 16) & 255}.${(i >> 8) & 255}.${i & 255}`,
    },
  };
}

export function* slice<T>(items: T[], size: number): Generator<T[]> {
  for (let i = 0; i < items.length; i += size) yield items.slice(i, i + size);
}
