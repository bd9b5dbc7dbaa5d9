import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { BACKENDS } from '@opm/testkit';
import fc from 'fast-check';
import { isAccepted } from './answers.js';
import { body, NAUGHTY_STRINGS, pad } from './bodies.js';
import { explore } from './runs.js';
import { Stack } from './stack.js';
import { LIMITS, PROPERTIES, type Row, toRow } from './to-row.js';

describe.each(BACKENDS)('with the queue on %s,', (_, createBackend) => {
  let stack: Stack;
  beforeAll(async () => {
    stack = await Stack.start(await createBackend());
  });
  afterAll(() => stack.stop());

  /** Posts bodies of different customers concurrently as a new partner, and expects the right answers and rows. */
  async function expectStored(bodies: Buffer[]): Promise<void> {
    const project = await stack.createProject();
    const expected = new Map<string, Row>();
    const sent = bodies.filter((bytes) => {
      const row = toRow(bytes);
      if (!row) return true;
      if (expected.has(row.customerId)) return false;
      return expected.set(row.customerId, row);
    });
    const answers = await Promise.all(sent.map((bytes) => stack.post(project, bytes)));
    expect(answers.map(isAccepted)).toEqual(sent.map((bytes) => toRow(bytes) !== undefined));
    expect(await stack.readRows(project)).toEqual(expected);
  }

  test.each(PROPERTIES)('every naughty string as %s is stored byte for byte, or refused', async (property) => {
    const entries = NAUGHTY_STRINGS.map((string, i) => ({ customerId: i, customerPhone: '1', [property]: string }));
    const bodies = entries.map((entry) => Buffer.from(JSON.stringify({ customerEmail: 'a', ...entry })));
    for (let i = 0; i < bodies.length; i += 200) await expectStored(bodies.slice(i, i + 200));
  });

  test.each(LIMITS)('%s has up to %i characters of any size', async (property, limit) => {
    const bodies = ['a', 'ß', '😀'].flatMap((character) =>
      [-1, 0, 1].map((more) => {
        const entry = {
          customerId: `${character} ${more}`,
          customerPhone: '1',
          [property]: character.repeat(limit + more),
        };
        return Buffer.from(JSON.stringify(entry));
      }),
    );
    expect(bodies.filter(toRow)).toHaveLength(6);
    await expectStored(bodies);
  });

  const entry = '{"customerId":"a","customerEmail":"b"}';
  test.each<[what: string, body: string | Buffer, isAccepted: boolean]>([
    [
      'the last of two equal keys counts',
      '{"customerId":"a","customerId":"b","customerEmail":"c","customerEmail":"d"}',
      true,
    ],
    ['the last of two equal keys is wrong', '{"customerId":"a","customerEmail":"c","customerEmail":1}', false],
    ['__proto__ is ignored', '{"__proto__":{"customerEmail":"c"},"customerId":"a","customerPhone":"1"}', true],
    ['__proto__ does not give an email', '{"customerId":"a","__proto__":{"customerEmail":"c"}}', false],
    [
      'spaces and combining characters',
      '{"customerId":" A\\t","customerEmail":"e\u0301\\r\\n","customerIP":"\u00a0\u212b"}',
      true,
    ],
    ['an id of 1e400', '{"customerId":1e400,"customerEmail":"b"}', false],
    ['an id of -0', '{"customerId":-0,"customerEmail":"b"}', true],
    ['an id of 1.0', '{"customerId":1.0,"customerEmail":"b"}', true],
    ['an id of 0.5', '{"customerId":0.5,"customerEmail":"b"}', false],
    ['an id that is not a safe integer', '{"customerId":9007199254740993,"customerEmail":"b"}', false],
    ['1e400 in an ignored property', '{"customerId":"a","customerEmail":"b","n":[1e400,-1e400,1e-400]}', true],
    ['a byte order mark', `\ufeff${entry}`, false],
    ['a byte order mark inside', '{"customerId":"\ufeffa","customerEmail":"b"}', true],
    ['UTF-16', Buffer.from(entry, 'utf16le'), false],
    ['Latin-1', Buffer.from('{"customerId":"ä","customerEmail":"b"}', 'latin1'), false],
    ['an overlong slash', Buffer.from('{"customerId":"\xc0\xaf","customerEmail":"b"}', 'latin1'), false],
    ['a surrogate in UTF-8', Buffer.from('{"customerId":"\xed\xa0\x80","customerEmail":"b"}', 'latin1'), false],
    ['an unpaired surrogate, escaped', '{"customerId":"a","customerEmail":"\\ud83d"}', false],
    ['a surrogate pair, escaped', '{"customerId":"a","customerEmail":"\\ud83d\\ude00"}', true],
    ['NUL, escaped', '{"customerId":"a\\u0000","customerEmail":"b"}', false],
    ['NUL in a string', '{"customerId":"a\0","customerEmail":"b"}', false],
    ['NUL after the object', `${entry}\0`, false],
    ['16 KiB - 1', pad(entry, 16 * 1024 - 1), true],
    ['16 KiB', pad(entry, 16 * 1024), true],
    ['16 KiB + 1', pad(entry, 16 * 1024 + 1), false],
    ['a depth of 8,000', `{"customerId":"a","customerEmail":"b","x":${'['.repeat(8_000)}${']'.repeat(8_000)}}`, true],
    ['a depth of 100,000', '['.repeat(100_000) + ']'.repeat(100_000), false],
    ['a depth of 100,000 objects', '{"a":'.repeat(100_000) + '}'.repeat(100_000), false],
    ['10,000 bytes of id', `{"customerId":"${'a'.repeat(10_000)}","customerEmail":"b"}`, false],
    ['3,000 keys', `{"customerId":"a","customerEmail":"b"${',"":0'.repeat(3_000)}}`, true],
  ])('JSON: %s', async (_, json, accepted) => {
    const bytes = Buffer.from(json as string);
    expect(toRow(bytes) !== undefined).toBe(accepted);
    await expectStored([bytes]);
  });

  test('whatever is posted is refused or stored byte for byte', async () => {
    await explore(fc.asyncProperty(fc.array(body, { minLength: 10, maxLength: 40 }), expectStored));
    await stack.expectUnharmed();
  });
});
