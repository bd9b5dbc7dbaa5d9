/** The entries of a burst, by number from 0. */
export type Entries = {
  idOf(n: number): string;
  bodyOf(n: number): Record<string, string>;
};

/**
 * They go round the customers, so that the first `customers` of them are one of each. Customers of another run have other ids;
 * an entry changes what an earlier one of its customer has given.
 */
export function createEntries({ run, customers }: { run: string; customers: number }): Entries {
  const idOf = (n: number) => `burst-${run}-${(n % customers) + 1}`;
  return {
    idOf,
    bodyOf(n) {
      const customerId = idOf(n);
      return {
        customerId,
        customerEmail: `${customerId}@example.com`,
        customerPhone: `+49 30 ${n}`,
        customerFirstName: 'First',
        customerLastName: `Last ${n}`,
        customerIP: '203.0.113.7',
      };
    },
  };
}
