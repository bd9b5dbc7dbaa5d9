import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { BACKENDS } from '@opm/testkit';
import fc from 'fast-check';
import pMap from 'p-map';
import type { Answer } from './answers.js';
import { body, NAUGHTY_STRINGS, pad } from './bodies.js';
import { toRequest } from './requests.js';
import { explore, SOME_AT_ONCE } from './runs.js';
import { type Project, Stack } from './stack.js';
import { closing, dial } from './talk.js';
import { PROPERTIES, parse, type Row, toRow, valueToRow } from './to-row.js';

const NDJSON = { 'content-type': 'application/x-ndjson' };
const MIB = 1024 * 1024;

describe.each(BACKENDS)('with the queue on %s,', (queue, createBackend) => {
  let stack: Stack;
  let project: Project;
  beforeAll(async () => {
    stack = await Stack.start(await createBackend());
    project = await stack.createProject();
  });
  afterAll(async () => {
    await stack.expectUnharmed();
    await stack.stop();
  });

  const postBatch = (body: string | Uint8Array, headers: Record<string, string> = {}, partner = project) =>
    stack.fetch(partner, '/entries', { method: 'POST', headers, body });

  /** Expects for each entry the result of a single call, and exactly these rows. */
  async function expectResults(partner: Project, { status, text }: Answer, rows: (Row | undefined)[]): Promise<void> {
    if (rows.length === 0) return expect(status).toBe(400);
    expect(status).toBe(207);
    const results = JSON.parse(text).results as { statusCode: number }[];
    expect(results.map(({ statusCode }) => statusCode < 300)).toEqual(rows.map((row) => row !== undefined));
    const expected = new Map(rows.flatMap((row) => (row ? [[row.customerId, row]] : [])));
    expect(await stack.readRows(partner)).toEqual(expected);
  }

  test.each(PROPERTIES)('every naughty string as %s is stored byte for byte, or refused', async (property) => {
    const entries = NAUGHTY_STRINGS.map((string, i) => ({ customerId: i, customerPhone: '1', [property]: string }));
    const whole = entries.map((entry) => ({ customerEmail: 'a', ...entry }));
    const partner = await stack.createProject();
    await expectResults(partner, await postBatch(JSON.stringify(whole), {}, partner), whole.map(valueToRow));
  });

  test('lines of any bytes are each refused or stored byte for byte', async () => {
    const property = fc.asyncProperty(
      fc.array(body, { minLength: 10, maxLength: 40 }),
      fc.boolean(),
      async (drawn, isEnded) => {
        const partner = await stack.createProject();
        const lines = toLines(drawn);
        const ends = lines.map((line) => Buffer.concat([line, Buffer.from('\n')]));
        const sent = isEnded ? Buffer.concat(ends) : Buffer.concat(ends).subarray(0, -1);
        const rows = lines.filter((line) => !isBlank(line)).map(toRow);
        await expectResults(partner, await postBatch(sent, NDJSON, partner), rows);
      },
    );
    await explore(property);
  });

  test('values of an array are each refused or stored byte for byte', async () => {
    const property = fc.asyncProperty(fc.array(body, { minLength: 10, maxLength: 40 }), async (drawn) => {
      const partner = await stack.createProject();
      const values = withoutRepeats(drawn.filter((bytes) => parse(bytes) !== undefined));
      const array = Buffer.from(`[${values.map((bytes) => bytes.toString()).join()}]`);
      const answer = await postBatch(array, {}, partner);
      await expectResults(
        partner,
        answer,
        values.map((bytes) => toRow(trim(bytes))),
      );
    });
    await explore(property);
  });

  if (queue === 'PostgreSQL') return; // the rest is about requests: both queues get the same parsed entries

  test('whatever is posted, the answer is documented', async () => {
    const type = fc.constantFrom('application/json', 'application/x-ndjson', 'text/plain', 'x', 'application/ndjson;;');
    const property = fc.asyncProperty(
      fc.array(fc.tuple(body, type), { minLength: 10, maxLength: 40 }),
      async (posts) => {
        await Promise.all(posts.map(([bytes, contentType]) => postBatch(bytes, { 'content-type': contentType })));
      },
    );
    await explore(property);
  });

  const entry = '{"customerId":"a","customerEmail":"b"}';
  const array = (size: number) => `[${Array(size).fill(entry).join()}]`;
  const lines = (size: number) => `${entry}\n`.repeat(size);
  const spaced = (text: string, bytes: number) => text + ' '.repeat(bytes - text.length);
  test.each<[what: string, body: string, headers: Record<string, string>, status: number]>([
    ['1,000 entries', array(1_000), {}, 207],
    ['1,000 lines', lines(1_000), NDJSON, 207],
    ['1,001 entries', array(1_001), {}, 413],
    ['1,001 lines', lines(1_001), NDJSON, 413],
    ['1,000 lines and 10,000 empty ones', `${'\n \r\n'.repeat(5_000)}${lines(1_000)}`, NDJSON, 207],
    ['1 MiB', spaced(array(2), MIB), {}, 207],
    ['1 MiB of lines', spaced(lines(2), MIB), NDJSON, 207],
    ['1 MiB + 1', spaced(array(2), MIB + 1), {}, 413],
    ['1 MiB + 1 of lines', spaced(lines(2), MIB + 1), NDJSON, 413],
    ['8 MiB', spaced(array(2), 8 * MIB), {}, 413],
    ['8 MiB in one line', 'x'.repeat(8 * MIB), NDJSON, 413],
    ['nothing', '', {}, 400],
    ['no line', '', NDJSON, 400],
    ['empty lines', '\n \r\n\t\n', NDJSON, 400],
    ['an array of nothing', '[]', {}, 400],
    ['an entry that is not an array', entry, {}, 400],
    ['a string', JSON.stringify(array(2)), {}, 400],
    ['an object with a length', '{"length":2,"0":{},"1":{}}', {}, 400],
    ['lines that are labelled JSON', lines(2), {}, 400],
    ['an array that is labelled NDJSON', array(2), NDJSON, 207],
    ['half an array', array(2).slice(0, -1), {}, 400],
    ['500,000 nested arrays', '['.repeat(500_000) + ']'.repeat(500_000), {}, 207],
    ['a form', 'a=b', { 'content-type': 'application/x-www-form-urlencoded' }, 415],
    ['170,000 keys', `[{${'"":0,'.repeat(170_000)}"customerId":1,"customerPhone":"1"}]`, {}, 207],
  ])('the answer to %s is the documented one', async (_, text, headers, status) => {
    expect((await postBatch(text, headers)).status).toBe(status);
  });

  test('a line of 16 KiB is accepted, and only a longer one is refused', async () => {
    const partner = await stack.createProject();
    const text = [16_384, 16_385, 100].map((bytes, i) => pad(entry.replace('a', `${i}`), bytes)).join('\n');
    await expectResults(
      partner,
      await postBatch(text, NDJSON, partner),
      text.split('\n').map((line) => toRow(Buffer.from(line))),
    );
  });

  test('lines are parsed the same however their bytes are split', async () => {
    const property = fc.asyncProperty(fc.array(body, { maxLength: 8 }), fc.array(fc.nat()), async (drawn, cuts) => {
      const partner = await stack.createProject();
      const lines = toLines(drawn);
      const bytes = lines.map((line) => line.toString('latin1')).join('\n');
      const places = [...new Set(cuts.map((cut) => cut % (bytes.length + 1)))].sort((a, b) => a - b);
      const chunks = [0, ...places].map((start, i) => bytes.slice(start, places[i])).filter(Boolean);
      const headers = [
        `x-api-key: ${partner.apiKey}`,
        'content-type: application/x-ndjson',
        'transfer-encoding: chunked',
      ];
      const pieces = [
        toRequest('POST /entries', headers),
        ...chunks.map((chunk) => `${chunk.length.toString(16)}\r\n${chunk}\r\n`),
        '0\r\n\r\n',
      ];
      const [answer] = await stack.talk(pieces, { answers: 1 });
      const rows = lines.filter((line) => !isBlank(line)).map(toRow);
      await expectResults(partner, answer as Answer, rows);
    });
    await explore(property);
  });

  test('a batch that breaks off anywhere stores nothing that was not in it', async () => {
    const partner = await stack.createProject();
    const body = Array.from({ length: 4 }, (_, i) => `${entry.replace('a', `${i}`)}\n`).join('');
    for (const type of ['application/json', 'application/x-ndjson']) {
      const headers = [`x-api-key: ${partner.apiKey}`, `content-type: ${type}`, `content-length: ${body.length}`];
      const whole = toRequest('POST /entries', headers, body);
      const ends = Array.from({ length: whole.length - 1 }, (_, i) => whole.slice(0, i + 1));
      const answers = await pMap(ends, (half) => stack.talk([half], { end: true }), SOME_AT_ONCE);
      expect(answers.flat().filter(({ status }) => status < 300)).toEqual([]);
      // A partner that closes the connection at once instead of only ending its side.
      const hangUp = (half: string) => {
        const socket = dial(stack.port);
        socket.write(Buffer.from(half), () => socket.destroy());
        return closing(socket);
      };
      await pMap(ends, hangUp, SOME_AT_ONCE);
    }
    const rows = await stack.readRows(partner);
    for (const { customerId, email } of rows.values())
      expect([['0', '1', '2', '3'].includes(customerId), email]).toEqual([true, 'b']);
  });
});

/** Splits the bodies into lines; drops lines that repeat a customer. */
function toLines(bodies: Buffer[]): Buffer[] {
  return withoutRepeats(
    bodies.flatMap((bytes) =>
      bytes
        .toString('latin1')
        .split('\n')
        .map((line) => Buffer.from(line, 'latin1')),
    ),
  );
}

function withoutRepeats(bodies: Buffer[]): Buffer[] {
  const seen = new Set<string>();
  return bodies.filter((bytes) => {
    const id = valueToRow(parse(bytes))?.customerId;
    if (id === undefined) return true;
    return !seen.has(id) && seen.add(id);
  });
}

/** Removes the white space around a value. */
const trim = (bytes: Buffer) => Buffer.from(bytes.toString('latin1').replace(/^[ \t\r\n]+|[ \t\r\n]+$/g, ''), 'latin1');

const isBlank = (line: Buffer) => /^[ \t\r]*$/.test(line.toString('latin1'));
