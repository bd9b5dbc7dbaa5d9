import type { IncomingMessage } from 'node:http';
import { Readable } from 'node:stream';
import { setImmediate as turn } from 'node:timers/promises';
import { describe, expect, test } from '@jest/globals';
import { Fault, LIMITS, parseEntry, parseJson } from '@opm/contract';
import fc from 'fast-check';
import type { RequestContext } from '../http/request-context.js';
import { type BatchItem, readBatch } from './read-batch.js';

const MIB = 2 ** 20;
const KIB_16 = 16 * 1024;
type Type = 'application/json' | 'application/x-ndjson';

/** The yielded items, and the fault if the batch was refused. */
type Outcome = { items: BatchItem[]; fault?: Fault; slices: number; refusedTokens: number };

/** @param body parts that arrive one by one, or the whole body in memory */
async function read(type: Type, body: Buffer | Buffer[], wait: () => Promise<void> | undefined = () => undefined) {
  const request = Array.isArray(body) ? Readable.from(body) : Readable.from([]);
  const outcome: Outcome = { items: [], slices: 0, refusedTokens: 0 };
  const options = {
    context: { bodyBytes: 0 } as RequestContext,
    onPart: () => {},
    inflate: () => Promise.reject(new Error('nothing is compressed')),
    groupSize: 200,
    nextSlice: () => {
      outcome.slices++;
      return wait();
    },
    onRefused: (tokens: number) => {
      outcome.refusedTokens += tokens;
    },
  };
  const incoming = Object.assign(request, { headers: { 'content-type': type } }) as unknown as IncomingMessage;
  try {
    for await (const group of readBatch(incoming, options, Array.isArray(body) ? undefined : body)) {
      expect(group.length).toBeLessThanOrEqual(200);
      outcome.items.push(...group);
    }
  } catch (error) {
    if (!(error instanceof Fault)) throw error;
    outcome.fault = error;
  }
  return outcome;
}

/** The result of the single call. */
function parseOne(text: string): BatchItem {
  try {
    if (Buffer.byteLength(text) > LIMITS.entryBytes) throw new Fault('BODY_TOO_LARGE');
    return parseEntry(parseJson(Buffer.from(text)));
  } catch (error) {
    return error as Fault;
  }
}

const toComparable = (items: BatchItem[]) =>
  items.map((item) => (item instanceof Fault ? [item.code, item.message] : item));

const entry = '{"customerId":"a","customerEmail":"ä@example.com"}';
const value = fc.oneof(
  fc.constantFrom(entry, entry, '{}', '1', 'null', '"x"', '[[]]', `{"customerId":"${'x'.repeat(256)}"}`),
  fc.constantFrom(KIB_16, KIB_16 + 1, 70_000).map((bytes) => `"${'x'.repeat(bytes - 2)}"`),
  fc.json(),
);
const values = fc.array(value, { minLength: 1, maxLength: 20 });
const waits = fc.array(fc.boolean(), { minLength: 1 });
const toWait = (drawn: boolean[]) => {
  let next = 0;
  return () => (drawn[next++ % drawn.length] ? turn() : undefined);
};

test('lines give the results of single calls, however the network and the time slices split them', async () => {
  const lines = fc.array(fc.oneof(value, fc.constantFrom('', ' \r', '{', '{"customerId":1')), { maxLength: 20 });
  await fc.assert(
    fc.asyncProperty(lines, fc.array(fc.nat()), waits, async (drawn, cuts, drawnWaits) => {
      const body = Buffer.from(drawn.join('\n'));
      const places = [...new Set(cuts.map((cut) => cut % (body.length + 1)))].sort((a, b) => a - b);
      const parts = [0, ...places].map((start, i) => body.subarray(start, places[i] ?? body.length));
      const expected = drawn.filter((line) => /[^ \r]/.test(line)).map(parseOne);
      for (const form of [parts.filter((part) => part.length > 0), body]) {
        const { items, fault } = await read('application/x-ndjson', form, toWait(drawnWaits));
        expect(toComparable(items)).toEqual(toComparable(expected));
        expect(fault?.code).toBe(expected.length === 0 ? 'BATCH_EMPTY' : undefined);
      }
    }),
  );
});

test('the values of an array give the results of single calls, however time slices split them', async () => {
  const blank = fc.constantFrom('', ' ', '\n\t');
  await fc.assert(
    fc.asyncProperty(values, blank, waits, async (drawn, space, drawnWaits) => {
      const body = Buffer.from(`${space}[${space}${drawn.join(`${space},${space}`)}${space}]${space}`);
      const { items, fault } = await read('application/json', body, toWait(drawnWaits));
      expect([toComparable(items), fault]).toEqual([toComparable(drawn.map(parseOne)), undefined]);
    }),
  );
});

describe('no piece of work is longer than an entry of 16 KiB:', () => {
  const fill = (text: string, bytes: number) => text.repeat(Math.floor(bytes / text.length));
  const dense = `[${fill('{},', KIB_16 - 5)}{}]`;
  test.each<[what: string, type: Type, body: string, outcome: string | number]>([
    ['1 MiB of blank lines', 'application/x-ndjson', fill('\n', MIB), 'BATCH_EMPTY'],
    ['1 MiB of spaces', 'application/x-ndjson', fill(' ', MIB), 'BATCH_EMPTY'],
    ['1 MiB of dense lines', 'application/x-ndjson', fill(`${dense}\n`, MIB), 64],
    ['1 MiB in one line', 'application/x-ndjson', fill('x', MIB), 1],
    ['1 MiB of dense values', 'application/json', `[${fill(`${dense},`, MIB - KIB_16)}1]`, 63 + 1],
    ['1 MiB in one value', 'application/json', `[${'['.repeat(MIB / 2 - 1)}${']'.repeat(MIB / 2 - 1)}]`, 1],
    ['1 MiB in one text', 'application/json', `["${fill('\\u0041', MIB - 4)}"]`, 1],
  ])('%s', async (_, type, text, outcome) => {
    const { items, fault, slices } = await read(type, Buffer.from(text));
    expect(fault?.code ?? items.length).toBe(outcome);
    expect(slices).toBeGreaterThanOrEqual(type === 'application/json' && outcome !== 1 ? 64 : 15);
  });

  test.each<[Type, string]>([
    ['application/json', `[${fill('1,', 1_998)}1]`],
    ['application/x-ndjson', fill('1\n', 2_000)],
  ])('1,000 small entries as %s are 1,000 pieces', async (type, text) => {
    const { items, slices } = await read(type, Buffer.from(text));
    expect(items).toHaveLength(1_000);
    expect(slices).toBeGreaterThanOrEqual(1_000);
  });

  test.each<[Type, string]>([
    ['application/json', `[${fill('{},', MIB - 6)}{}]`],
    ['application/x-ndjson', fill('1\n', MIB)],
  ])('a batch with far too many entries as %s is refused after few pieces', async (type, text) => {
    const { items, fault, slices } = await read(type, Buffer.from(text));
    expect([items, fault?.code]).toEqual([[], 'BATCH_TOO_LONG']);
    expect(slices).toBeLessThanOrEqual(1_001);
  });
});

test('a refused entry costs a token per KiB or part of one, and blank lines one per full KiB', async () => {
  const big = `"${'x'.repeat(2_047)}"`;
  const array = await read('application/json', Buffer.from(`[${entry},1,${big},"${'x'.repeat(20_480)}"]`));
  expect(array.refusedTokens).toBe(1 + 3 + 21);
  const blank = '\n'.repeat(5 * 1_024 + 1_023);
  const lines = await read('application/x-ndjson', [Buffer.from(`${entry}\n1\n${big}\n${blank}${'x'.repeat(20_480)}`)]);
  expect(lines.refusedTokens).toBe(1 + 3 + 5 + 20);
});
