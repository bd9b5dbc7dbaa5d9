import { constants, deflateRawSync, deflateSync, gzipSync } from 'node:zlib';
import { describe, expect, test } from '@jest/globals';
import { Fault } from '@opm/contract';
import fc from 'fast-check';
import { ClientDisconnected, createInflater } from './read-body.js';

const MIB = 2 ** 20;
const LIMIT = { maxBytes: MIB, fault: 'BATCH_TOO_LARGE' } as const;
const SOCKET = { destroyed: false };

type Coding = 'gzip' | 'deflate';
const COMPRESS = { gzip: gzipSync, deflate: deflateSync };
const CODINGS: Coding[] = ['gzip', 'deflate'];

function setUp({ maxWaitMs = 60_000 } = {}) {
  const shed: string[] = [];
  const inflate = createInflater({ maxWaitMs, onShed: (reason) => shed.push(reason) });
  /** Resolves with the inflated parts, and the error if there was one. */
  async function run(coding: Coding, body: Buffer, { projectId = 1, limit = LIMIT, socket = SOCKET } = {}) {
    const parts: Buffer[] = [];
    const onPart = (part: Buffer) => void parts.push(part);
    const error = await inflate(projectId, { ...limit, coding, body, socket, onPart }).then(
      () => undefined,
      (thrown) => thrown,
    );
    const bytes = Buffer.concat(parts);
    return { error, code: error instanceof Fault ? error.code : undefined, bytes, parts };
  }
  return { run, shed };
}

describe.each(CODINGS)('a body in %s', (coding) => {
  const invalid = coding === 'gzip' ? 'GZIP_INVALID' : 'DEFLATE_INVALID';
  const compress = COMPRESS[coding];
  const text = Buffer.from('{"customerId":1,"customerEmail":"jane@example.com"}');

  test('inflates to the bytes that were compressed, at any level, with any flushes', async () => {
    const { run } = setUp();
    const options = fc.record({
      level: fc.integer({ min: 0, max: 9 }),
      memLevel: fc.integer({ min: 1, max: 9 }),
      strategy: fc.constantFrom(constants.Z_FIXED, constants.Z_HUFFMAN_ONLY, constants.Z_RLE),
      windowBits: fc.integer({ min: 9, max: 15 }),
    });
    const property = fc.asyncProperty(
      fc.uint8Array({ maxLength: 5_000 }),
      fc.nat(60),
      options,
      async (some, times, how) => {
        const plain = Buffer.concat(Array(times).fill(some));
        const { error, bytes } = await run(coding, compress(plain, how));
        expect(error).toBeUndefined();
        expect(bytes.equals(plain)).toBe(true);
      },
    );
    await fc.assert(property, { numRuns: 100 });
  });

  test('of exactly the limit inflates; one byte more is refused, and nothing behind the limit is passed on', async () => {
    const { run } = setUp();
    for (const maxBytes of [16 * 1024, MIB]) {
      const limit = { ...LIMIT, maxBytes };
      const most = await run(coding, compress(Buffer.alloc(maxBytes)), { limit });
      expect([most.code, most.bytes.length]).toEqual([undefined, maxBytes]);
      for (const more of [1, 100 * MIB]) {
        const { code, bytes } = await run(coding, compress(Buffer.alloc(maxBytes + more)), { limit });
        expect([code, bytes.length]).toEqual(['BATCH_TOO_LARGE', maxBytes]);
      }
    }
  });

  test('does not keep more memory than twice what it inflates to', async () => {
    const { run } = setUp();
    const { parts } = await run(coding, compress(Buffer.alloc(200_000, text)));
    const kept = new Set(parts.map(({ buffer }) => buffer));
    expect([...kept].reduce((sum, { byteLength }) => sum + byteLength, 0)).toBeLessThan(400_000);
  });

  test.each<[what: string, body: Buffer]>([
    ['is empty', Buffer.alloc(0)],
    ['is not compressed', text],
    ['has no header', deflateRawSync(text)],
    ['is in the other coding', COMPRESS[coding === 'gzip' ? 'deflate' : 'gzip'](text)],
    ['has a byte behind its end', Buffer.concat([compress(text), Buffer.from('x')])],
    ['has a zero behind its end', Buffer.concat([compress(text), Buffer.alloc(1)])],
    ['has zeros and more behind its end', Buffer.concat([compress(text), Buffer.alloc(9), compress(text)])],
    ['has half a member behind its end', Buffer.concat([compress(text), compress(text).subarray(0, 15)])],
    ['needs a dictionary', deflateSync(text, { dictionary: Buffer.from('customerId') })],
  ])('that %s is refused', async (_, body) => {
    expect((await setUp().run(coding, body)).code).toBe(invalid);
  });

  test('that is cut off anywhere is refused', async () => {
    const { run } = setUp();
    const whole = compress(text);
    for (let end = 0; end < whole.length; end++) expect((await run(coding, whole.subarray(0, end))).code).toBe(invalid);
  });

  test('with any changed byte is refused, or inflates to the same', async () => {
    const { run } = setUp();
    const whole = compress(text);
    for (let at = 0; at < whole.length; at++) {
      const changed = Buffer.from(whole);
      changed.writeUInt8(changed.readUInt8(at) ^ 0xff, at);
      const { code, bytes } = await run(coding, changed);
      if (code === undefined) expect(bytes.equals(text)).toBe(true);
      else expect(code).toBe(invalid);
    }
  });

  test('is not inflated if its client has disconnected', async () => {
    const { error, parts } = await setUp().run(coding, compress(text), { socket: { destroyed: true } });
    expect([error instanceof ClientDisconnected, parts]).toEqual([true, []]);
  });
});

test('members of gzip inflate to their contents in order', async () => {
  const { bytes } = await setUp().run('gzip', Buffer.concat(['a', '', 'bc'].map((text) => gzipSync(text))));
  expect(bytes.toString()).toBe('abc');
});

test('one body of a project is inflated at a time, in order, and others need not wait for all of them', async () => {
  const { run } = setUp();
  const done: string[] = [];
  const body = gzipSync(Buffer.alloc(MIB));
  const start = (projectId: number, name: string) => run('gzip', body, { projectId }).then(() => done.push(name));
  const own = Array.from({ length: 50 }, (_, i) => start(1, `${i}`));
  await Promise.all([...own, start(2, 'other'), start(3, 'third')]);
  expect(done.filter((name) => Number(name) >= 0)).toEqual(Array.from({ length: 50 }, (_, i) => `${i}`));
  expect(done.indexOf('other')).toBeLessThan(25);
  expect(done.indexOf('third')).toBeLessThan(25);
});

test('a body that waits too long for its turn is refused as an overload', async () => {
  const { run, shed } = setUp({ maxWaitMs: 0 });
  const bodies = Array.from({ length: 20 }, () => run('gzip', gzipSync(Buffer.alloc(MIB))));
  const codes = (await Promise.all(bodies)).map(({ code }) => code);
  expect(codes[0]).toBeUndefined();
  expect(codes).toContain('OVERLOADED');
  expect(shed).toEqual(codes.filter((code) => code !== undefined).map(() => 'waited'));
});
