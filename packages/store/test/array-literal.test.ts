import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { createTestDatabase, type TestDatabase } from '@opm/testkit';
import fc from 'fast-check';
import pg from 'pg';
import { toArrayLiteral } from '../src/upsert-customers.js';

let database: TestDatabase;
let client: pg.Client;

beforeAll(async () => {
  database = await createTestDatabase();
  client = new pg.Client({ connectionString: database.url });
  await client.connect();
});
afterAll(async () => {
  await client.end();
  await database.drop();
});

const parse = async (items: (string | undefined)[]) => {
  const { rows } = await client.query('SELECT $1::text[] AS items', [toArrayLiteral(items, (item) => item)]);
  return rows[0]?.items;
};

/** Mostly characters with a meaning in an array literal, and characters near them in real values. */
const syntax = fc.string({ unit: fc.constantFrom(...'{},"\\ \t\n\vNULnul@.+-:;ä', '\u00a0', '🙂', '\u0001') });
const unicode = fc.string({ unit: 'grapheme' }).filter((text) => !text.includes('\0')); // not storable

test('PostgreSQL reads each text unchanged, and undefined as NULL', async () => {
  const text = fc.oneof(syntax, unicode, fc.constantFrom('', 'NULL', 'null', 'Null'));
  await fc.assert(
    fc.asyncProperty(fc.array(fc.option(text, { nil: undefined }), { minLength: 1 }), async (items) => {
      expect(await parse(items)).toEqual(items.map((item) => item ?? null));
    }),
    { numRuns: 1_000 },
  );
});
