import { describe, expect, test } from '@jest/globals';
import fc from 'fast-check';
import { Fault } from './faults.js';
import { parseDays, parseRefusedQuery, REFUSALS, toCursor, toRefusedEntry, toUsageAnswer } from './reads.js';

const messageOf = (query: Record<string, unknown>) => {
  try {
    return parseRefusedQuery(query);
  } catch (error) {
    if (error instanceof Fault && error.code === 'QUERY_INVALID') return error.message;
    throw error;
  }
};

describe('a refused entry', () => {
  const letter = {
    ...{ customerId: '7519', receipt: 'r', state: 'refused' as const, refusedAt: new Date(0), isReadable: true },
    ...{ sqlState: '22001' as string | null, field: undefined, requestIds: null },
  };

  test.each([
    ['22001', 'VALUE_TOO_LONG'],
    ['54000', 'VALUE_TOO_LONG'],
    ['22P05', 'VALUE_INVALID'],
    ['22021', 'VALUE_INVALID'],
    ['23502', 'VALUE_INVALID'],
    ['23514', 'VALUE_INVALID'],
    ['23503', 'VALUE_INVALID'],
    ['P0001', 'VALUE_INVALID'],
    ['23505', 'VALUE_CONFLICT'],
    ['21000', 'VALUE_CONFLICT'],
    ['XX000', 'STORE_ERROR'],
    [null, 'STORE_ERROR'],
  ] as const)('with SQLSTATE %s has the code %s', (sqlState, code) => {
    expect(toRefusedEntry({ ...letter, sqlState })).toEqual({
      ...{ customerId: '7519', receipt: 'r', code, message: REFUSALS[code] },
      ...{ refusedAt: new Date(0), state: 'refused' },
    });
  });

  test('that cannot be read has a code of its own; a field has the name that partners know', () => {
    expect(toRefusedEntry({ ...letter, isReadable: false }).code).toBe('ENTRY_UNREADABLE');
    expect(toRefusedEntry({ ...letter, field: 'ip' }).field).toBe('customerIP');
    expect(toRefusedEntry({ ...letter, requestIds: { requestId: 'r-1' } })).toMatchObject({ requestId: 'r-1' });
  });
});

describe('the query of the refused entries', () => {
  test('has defaults, and takes a time, a cursor and a limit', () => {
    expect(parseRefusedQuery({})).toEqual({ since: undefined, before: undefined, limit: 100 });
    const before = { micros: 1_796_045_486_000_001, id: '17' };
    const since = '2026-11-30T13:00:00.5+01:00';
    expect(parseRefusedQuery({ since, cursor: toCursor(before), limit: '1000' })).toEqual({
      ...{ since: new Date('2026-11-30T12:00:00.500Z'), before, limit: 1_000 },
    });
    expect(parseRefusedQuery({ since: '2026-11-30' }).since).toEqual(new Date('2026-11-30T00:00:00Z'));
  });

  test.each([
    [{ since: 'yesterday' }, 'query/since must be an ISO 8601 time such as 2026-11-30T12:00:00Z'],
    [{ since: '2026-11-30T12:00:00' }, 'query/since must be an ISO 8601 time such as 2026-11-30T12:00:00Z'],
    [{ since: '2026-02-30T12:00:00Z' }, 'query/since must be an ISO 8601 time such as 2026-11-30T12:00:00Z'],
    [{ since: '2026-11-30T12:00:00 01:00' }, 'query/since must be an ISO 8601 time such as 2026-11-30T12:00:00Z'],
    [{ since: ['2026-11-30', '2026-11-30'] }, 'query/since must be given once'],
    [{ cursor: '' }, 'query/cursor must be that of an answer'],
    [{ cursor: '9999999999999999-1' }, 'query/cursor must be that of an answer'],
    [{ limit: '0' }, 'query/limit must be an integer from 1 to 1000'],
    [{ limit: '1001' }, 'query/limit must be an integer from 1 to 1000'],
    [{ limit: '1e2' }, 'query/limit must be an integer from 1 to 1000'],
    [{ from: '2026-11-30' }, 'query/from is not known, use since, cursor or limit'],
    [
      { [`${'x'.repeat(39)}\u{1F9D1}y`]: '' },
      `query/${'x'.repeat(39)}\u{1F9D1} is not known, use since, cursor or limit`,
    ],
  ])('%j is refused', (query, message) => {
    expect(messageOf(query)).toBe(message);
  });

  test('is read, or refused with a short message, whatever it is', () => {
    const text = fc.string({ unit: 'binary' });
    const digits = fc.stringMatching(/^[\d:.TZ+-]{0,30}$/);
    const query = fc.record(
      { since: fc.oneof(text, digits), cursor: fc.oneof(text, digits), limit: digits },
      { requiredKeys: [] },
    );
    fc.assert(
      fc.property(fc.oneof(query, fc.dictionary(text, text)), (given) => {
        const read = messageOf(given);
        if (typeof read === 'string') return expect(read.length).toBeLessThan(150);
        expect(read.limit).toBeLessThanOrEqual(1_000);
        if (read.since) expect(Number.isFinite(read.since.getTime())).toBe(true);
      }),
      { numRuns: 1_000 },
    );
  });
});

const NOON = new Date('2026-11-30T12:00:00Z');

test.each([
  [{}, '2026-11-01', '2026-11-30'],
  [{ to: '2026-03-01' }, '2026-01-31', '2026-03-01'],
  [{ from: '2026-11-30' }, '2026-11-30', '2026-11-30'],
  [{ from: '2025-10-27' }, '2025-10-27', '2026-11-30'],
  [{ from: '2024-02-29', to: '2025-04-03' }, '2024-02-29', '2025-04-03'],
])('the days %j are from %s to %s, and the answer lists each of them', (query, from, to) => {
  const days = parseDays(query, NOON);
  expect(days).toEqual({ from, to });
  const listed = toUsageAnswer(days, []).days;
  expect([listed[0]?.day, listed.at(-1)?.day]).toEqual([from, to]);
  expect(listed).toHaveLength((Date.parse(to) - Date.parse(from)) / 86_400_000 + 1);
});

test.each([
  [{ from: '2026-02-30' }, 'query/from must be a day such as 2026-11-30'],
  [{ from: '' }, 'query/from must be a day such as 2026-11-30'],
  [{ to: '30.11.2026' }, 'query/to must be a day such as 2026-11-30'],
  [{ to: '0000-01-01' }, 'query/to must be a day such as 2026-11-30'],
  [{ to: '+020261-11-30' }, 'query/to must be a day such as 2026-11-30'],
  [{ to: '2026-11-30T00:00:00Z' }, 'query/to must be a day such as 2026-11-30'],
  [{ from: ['2026-11-30', '2026-11-30'] }, 'query/from must be given once'],
  [{ From: '2026-11-30' }, 'query/From is not known, use from or to'],
  [{ from: '2026-11-30', month: '11' }, 'query/month is not known, use from or to'],
  [{ from: '2026-11-30', to: '2026-11-29' }, 'query/to must not be before query/from'],
  [{ from: '2026-12-01' }, 'query/to must not be before query/from'],
  [{ from: '2025-10-26' }, 'query/from must be less than 400 days before query/to'],
])('the days %j are refused: %s', (query, message) => {
  expect(() => parseDays(query, NOON)).toThrow(expect.objectContaining({ code: 'QUERY_INVALID', message }));
});
