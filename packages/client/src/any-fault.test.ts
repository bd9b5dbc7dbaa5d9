import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import {
  CREATED,
  LIMITED,
  REFUSED,
  type Reaction,
  type Received,
  readEntries,
  startStubServer,
  toBatchAnswer,
  UPDATED,
} from '../test/stub-server.js';
import { OpmClient } from './index.js';

const MAX_IN_FLIGHT = 3;

/** Outcome of a request. A partial refusal comes after `accepted` entries. */
const fate = fc.oneof(
  { weight: 3, arbitrary: fc.constant('answered' as const) },
  fc.constantFrom('refused' as const, 'lost before' as const, 'lost after' as const),
  fc.record({ accepted: fc.nat(4), refusal: fc.constantFrom(REFUSED, LIMITED) }),
);
type Fate = typeof fate extends fc.Arbitrary<infer T> ? T : never;

/** Per turn of the event loop, the customers that are sent; few, so that they repeat. */
const turns = fc.array(fc.array(fc.nat(3), { maxLength: 6 }), { minLength: 1, maxLength: 6 });

/** Accepts as the contract says: in order, up to the first refusal. An idempotency key always gets the same answer. */
function createAcceptingServer(fates: readonly Fate[]) {
  const accepted: { customerId: string; customerPhone: string }[] = [];
  const answers = new Map<unknown, Reaction>();
  const known = new Set<string>();
  const underWay = new Map<string, number>();
  let open = 0;

  function accept(request: Received, most = Number.POSITIVE_INFINITY, refusal = REFUSED): Reaction {
    const entries = readEntries(request) as typeof accepted;
    const results = entries.map((entry, i) => {
      if (i >= most) return refusal;
      accepted.push(entry);
      const isKnown = known.has(entry.customerId);
      known.add(entry.customerId);
      return isKnown ? UPDATED : CREATED;
    });
    return most === 0 ? { status: refusal.statusCode, body: refusal } : toBatchAnswer(results);
  }

  async function react(request: Received, count: number): Promise<Reaction> {
    const customers = [...new Set(readEntries(request).map(({ customerId }) => String(customerId)))];
    expect(++open).toBeLessThanOrEqual(MAX_IN_FLIGHT);
    for (const customer of customers) {
      expect(underWay.get(customer) ?? 0).toBe(0);
      underWay.set(customer, 1);
    }
    await new Promise(setImmediate);
    for (const customer of customers) underWay.delete(customer);
    open--;

    const key = request.headers['idempotency-key'];
    const replay = answers.get(key);
    if (replay) return replay;
    const given = fates[count - 1] ?? 'answered';
    if (given === 'lost before') return 'cut';
    if (given === 'refused') return { status: 503, body: REFUSED };
    const answer = typeof given === 'object' ? accept(request, given.accepted, given.refusal) : accept(request);
    if (answer !== 'cut' && answer !== 'hang' && answer.status === 207) answers.set(key, answer);
    return given === 'lost after' ? 'cut' : answer;
  }

  return { accepted, react };
}

test('whatever is refused or lost, every entry is accepted once, in its customer’s order, and gets the right result', async () => {
  await fc.assert(
    fc.asyncProperty(turns, fc.array(fate, { maxLength: 4 }), async (sends, fates) => {
      const failures: unknown[] = [];
      const { accepted, react } = createAcceptingServer(fates);
      const server = await startStubServer((request, count) =>
        react(request, count).catch((error) => {
          failures.push(error);
          return 'cut';
        }),
      );
      const client = new OpmClient({ url: server.url, apiKey: 'key', maxInFlight: MAX_IN_FLIGHT });
      const sent: { customerId: string; customerPhone: string }[] = [];
      const calls: Promise<{ created: boolean }>[] = [];
      for (const turn of sends) {
        for (const customer of turn) {
          const entry = { customerId: `c-${customer}`, customerPhone: String(sent.length + 1) };
          sent.push(entry);
          calls.push(client.send(entry));
        }
        await new Promise(setImmediate);
      }
      const results = await Promise.all(calls);
      await client.close();
      await server.close();

      expect(failures).toEqual([]);
      expect(accepted).toHaveLength(sent.length);
      const of = (entries: typeof sent, id: string) => entries.filter(({ customerId }) => customerId === id);
      for (const id of new Set(sent.map(({ customerId }) => customerId))) {
        expect(of(accepted, id)).toEqual(of(sent, id));
      }
      const isFirst = (i: number) => sent.findIndex(({ customerId }) => customerId === sent[i]?.customerId) === i;
      expect(results.map(({ created }) => created)).toEqual(sent.map((_, i) => isFirst(i)));
    }),
    { numRuns: 40 },
  );
}, 60_000);
