import { expect, test } from '@jest/globals';
import { CircuitBreaker } from '../ingest/circuit-breaker.js';
import { createPartitions } from '../ingest/partitions.js';
import { createFindCustomer } from './get-entry.js';

const ids = Array.from({ length: 1_000 }, (_, i) => `c${i}`);

test.each([
  ['1,000 entries share one call of each store', 1, [1_000]],
  ['of customers, which have up to 20 refused entries each, 50 do', undefined, Array(20).fill(50)],
])('%s', async (_, version, expected) => {
  const calls: Record<string, number[]> = { claims: [], refused: [], rows: [] };
  const findCustomer = createFindCustomer({
    async readClaims(_shard, _projectId, customers) {
      calls.claims?.push(customers.length);
      return customers.map(() => undefined);
    },
    async findRefused(_projectId, asked) {
      calls.refused?.push(asked.length);
      return asked.map(() => []);
    },
    async findVersioned(_projectId, customerIds) {
      calls.rows?.push(customerIds.length);
      return new Map();
    },
    partitions: createPartitions(1),
    budget: { turnMs: 60_000, workMs: 60_000 },
    maxInFlight: 2,
    breaker: new CircuitBreaker({ onFailure: () => {} }),
  });
  const asked = ids.map((customerId) => ({ customerId, ...(version !== undefined && { version }) }));
  const found = await Promise.all(asked.map((one) => findCustomer(1, one)));
  expect(found).toEqual(ids.map(() => ({ row: undefined, refused: [], claim: undefined })));
  expect(calls).toEqual({ claims: expected, refused: expected, rows: expected });
});
