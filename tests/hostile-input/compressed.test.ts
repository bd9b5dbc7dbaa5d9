import { deflateSync, gunzipSync, gzipSync, inflateSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createBackend } from '@opm/testkit';
import fc from 'fast-check';
import pMap from 'p-map';
import type { Answer } from './answers.js';
import { body } from './bodies.js';
import { toRequest } from './requests.js';
import { explore, SOME_AT_ONCE } from './runs.js';
import { type Project, Stack } from './stack.js';
import { closing, dial } from './talk.js';
import { toRow } from './to-row.js';

const LINES = 'application/x-ndjson';
const MIB = 1024 * 1024;
const CODINGS = {
  gzip: { compress: gzipSync, decompress: gunzipSync },
  deflate: { compress: deflateSync, decompress: inflateSync },
};
const coding = fc.constantFrom(...(['gzip', 'deflate'] as const));

/** A body for one of the routes. */
const post = fc.oneof(
  body.map((bytes) => ({ path: '/entry', type: 'application/json', bytes })),
  fc.tuple(fc.array(body, { maxLength: 30 }), fc.boolean()).map(([bodies, areLines]) => {
    const text = bodies.map((bytes) => bytes.toString('latin1'));
    const bytes = Buffer.from(areLines ? text.join('\n') : `[${text.join()}]`, 'latin1');
    return { path: '/entries', type: areLines ? LINES : 'application/json', bytes };
  }),
);
type Post = { path: string; type: string; bytes: Buffer };

const bombs = [
  gzipSync(Buffer.alloc(300 * MIB)),
  deflateSync(Buffer.alloc(300 * MIB)),
  Buffer.concat(Array(1_000).fill(gzipSync(Buffer.alloc(MIB)))),
];

// Both queues get the same inflated entries.
describe('with the queue on Redis,', () => {
  let stack: Stack;
  beforeAll(async () => {
    stack = await Stack.start(await createBackend(process.env.OPM_TEST_REDIS_URL));
  });
  afterAll(async () => {
    await stack.expectUnharmed();
    await stack.stop();
  });

  const send = (partner: Project, { path, type, bytes }: Post, headers: Record<string, string> = {}) =>
    stack.fetch(partner, path, { method: 'POST', headers: { 'content-type': type, ...headers }, body: bytes });

  test('compressed and plain bodies get the same answers and make the same rows, with and without keys', async () => {
    const property = fc.asyncProperty(
      fc.array(fc.tuple(post, coding), { maxLength: 10 }),
      fc.boolean(),
      async (posts, isKeyed) => {
        const [plain, compressed] = [await stack.createProject(), await stack.createProject()];
        for (const [i, [drawn, name]] of posts.entries()) {
          const key: Record<string, string> = isKeyed ? { 'idempotency-key': `${i}` } : {};
          const bytes = CODINGS[name].compress(drawn.bytes);
          const [expected, answer] = await Promise.all([
            send(plain, drawn, key),
            send(compressed, { ...drawn, bytes }, { ...key, 'content-encoding': name }),
          ]);
          expect(toComparable(answer)).toEqual(toComparable(expected));
        }
        expect(await stack.readRows(compressed)).toEqual(await stack.readRows(plain));
      },
    );
    await explore(property);
  });

  test('a compressed body with changed bytes is refused as a whole, or is read as what it inflates to', async () => {
    const change = fc.tuple(fc.nat(), fc.uint8Array({ maxLength: 4 }), fc.nat(3));
    const property = fc.asyncProperty(fc.array(fc.tuple(body, coding, change), { maxLength: 20 }), async (drawn) => {
      const partner = await stack.createProject();
      const expected = new Map();
      for (const [bytes, name, [at, added, removed]] of drawn) {
        const { compress, decompress } = CODINGS[name];
        const whole = compress(bytes);
        const start = at % (whole.length + 1);
        const changed = Buffer.concat([whole.subarray(0, start), added, whole.subarray(start + removed)]);
        const sent = { path: '/entry', type: 'application/json', bytes: changed };
        const { status, text } = await send(partner, sent, { 'content-encoding': name });
        const inflated = attempt(() => decompress(changed));
        const row = inflated && toRow(inflated);
        if (status === 413 || text.includes(`body must be valid ${name}`)) continue; // 413: the limit comes before the checksum
        expect([name, changed, inflated !== undefined, status < 300]).toEqual([name, changed, true, row !== undefined]);
        if (row) expected.set(row.customerId, [...(expected.get(row.customerId) ?? []), row]);
      }
      const rows = await stack.readRows(partner);
      expect([...rows.keys()].sort()).toEqual([...expected.keys()].sort());
    });
    await explore(property);
  });

  test('bytes of any kind in any coding get a documented answer', async () => {
    const encoding = fc.oneof(
      fc.constantFrom('gzip', 'deflate', 'x-gzip', 'GZIP', 'br', 'identity', 'gzip, deflate', 'zstd', '*', 'gzip;q=1'),
      fc.stringMatching(/^[!-~]{0,20}$/),
    );
    const magic = fc.constantFrom([], [0x1f, 0x8b, 8], [0x1f, 0x8b, 8, 0xff], [0x78, 0x9c], [0x78, 0xbb]);
    const bytes = fc
      .tuple(magic, fc.uint8Array({ maxLength: 200 }))
      .map(([first, rest]) => Buffer.from([...first, ...rest]));
    const property = fc.asyncProperty(fc.array(fc.tuple(post, bytes, encoding), { maxLength: 20 }), async (drawn) => {
      const partner = await stack.createProject();
      await Promise.all(
        drawn.map(([usual, some, name]) => send(partner, { ...usual, bytes: some }, { 'content-encoding': name })),
      );
    });
    await explore(property);
  });

  test('bombs are refused while others are served', async () => {
    const [attacker, partner] = [await stack.createProject(), await stack.createProject()];
    const targets = [
      { path: '/entry', type: 'application/json' },
      { path: '/entries', type: 'application/json' },
      { path: '/entries', type: LINES },
    ];
    const posts = Array.from({ length: 4 }, () =>
      bombs.flatMap((bytes) => targets.map((to) => ({ ...to, bytes }))),
    ).flat();
    const refusing = pMap(
      posts,
      async (sent) => {
        const name = sent.bytes === bombs[1] ? 'deflate' : 'gzip';
        expect((await send(attacker, sent, { 'content-encoding': name })).status).toBe(413);
      },
      SOME_AT_ONCE,
    );
    let isOver = false;
    const ended = refusing.finally(() => {
      isOver = true;
    });
    for (let i = 0; !isOver; i++) {
      const bytes = gzipSync(JSON.stringify({ customerId: i, customerEmail: 'a' }));
      const answer = await send(
        partner,
        { path: '/entry', type: 'application/json', bytes },
        { 'content-encoding': 'gzip' },
      );
      expect(answer.status).toBe(201);
    }
    await ended;
    expect(await stack.readRows(attacker)).toEqual(new Map());
  });

  test('an upload that breaks off anywhere stores nothing, and its connection ends', async () => {
    const partner = await stack.createProject();
    const entries = Array.from({ length: 4 }, (_item, i) => JSON.stringify({ customerId: i, customerEmail: 'a' }));
    const forms = [
      ['/entry', 'application/json', entries[0]],
      ['/entries', 'application/json', `[${entries.join()}]`],
      ['/entries', LINES, entries.join('\n')],
    ] as const;
    for (const [path, type, text] of forms) {
      const bytes = gzipSync(text as string);
      const headers = [`x-api-key: ${partner.apiKey}`, `content-type: ${type}`, 'content-encoding: gzip'];
      const head = toRequest(`POST ${path}`, [...headers, `content-length: ${bytes.length}`]);
      const whole = Buffer.concat([Buffer.from(head), bytes]);
      const ends = Array.from({ length: bytes.length }, (_item, i) => head.length + i);
      const hangUp = (end: number) => {
        const socket = dial(stack.port);
        socket.write(whole.subarray(0, end), () => socket.destroy());
        return closing(socket);
      };
      await pMap(ends, hangUp, SOME_AT_ONCE);
    }
    expect(await stack.readRows(partner)).toEqual(new Map());
  });
});

/** Without the difference of 201 and 202: a look-up may be late. */
const toComparable = ({ status, text }: Answer) => [
  status === 202 ? 201 : status,
  text
    .replaceAll('202,"message":"OK - Update accepted"', '201,"message":"OK - Created"')
    .replace(/(?<="receipts":)\[.*\]/, (receipts) => receipts.replaceAll(/"\w+"/g, '"…"')),
];

function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
