import { gzipSync } from 'node:zlib';

export const MIB = 2 ** 20;

/** A kind of request body. */
export type Shape = {
  name: string;
  path: '/entry' | '/entries';
  type: 'application/json' | 'application/x-ndjson';
  /** The statuses that are allowed as the answer. */
  statuses: number[];
  /** Returns the body of the next request. */
  next(): Buffer;
  /** Bytes per chunk; if set, the body is sent with `transfer-encoding: chunked`. */
  chunkBytes?: number;
  isKeyed?: boolean;
  /** A single entry of usual size. */
  isSingle?: boolean;
  /**
   * Whether `next` returns gzip. Then bytes are counted inflated, up to the limit of the path, unless more are sent.
   */
  isGzip?: boolean;
};

/** The names of valid bodies, compressed or not, begin with this. */
export const VALID_NAME = 'valid entries';

export const KIB_16 = 16 * 1024;
const BATCH = 1_000;

/** Values at the size limits: a line of 16 KiB, an entry of 16 KiB, an array of 1 MiB. */
const VALUES: [name: string, make: (bytes: number) => string | Buffer][] = [
  ['deep arrays', (bytes) => '['.repeat(bytes / 2) + ']'.repeat(bytes / 2)],
  ['deep arrays in a property', (bytes) => `{"other":${'['.repeat((bytes - 10) / 2)}${']'.repeat((bytes - 10) / 2)}}`],
  ['properties of [[]]', (bytes) => `{${repeat('"a":[[]],', bytes - 40)}"a":[[]]}`],
  ['deep objects', (bytes) => `${'{"a":'.repeat((bytes - 8) / 6)}0${'}'.repeat((bytes - 8) / 6)}`],
  ['wide: numbers', (bytes) => list('1', bytes)],
  ['wide: {},', (bytes) => list('{}', bytes)],
  ['wide: [],', (bytes) => list('[]', bytes)],
  ['wide: keys', (bytes) => `{${keys(bytes - 40)}}`],
  ['duplicate keys', (bytes) => `{${repeat('"a":0,', bytes - 40)}"a":0}`],
  ['escapes', (bytes) => `{"customerFirstName":"${repeat('\\u0041', bytes - 40)}"}`],
  ['numbers of 10,000 digits', (bytes) => list('1'.repeat(10_000), bytes)],
  ['invalid UTF-8', (bytes) => Buffer.concat([Buffer.from(list('{}', bytes - 2)), Buffer.from([0xff, 0xff])])],
  ['broken at its end', (bytes) => `${list('{}', bytes - 1)}x`],
];

/** gzip that is costly to inflate: much content in few bytes, or none at all. */
const COMPRESSED: [name: string, body: Buffer][] = [
  ['a bomb of 64 MiB', gzipSync(Buffer.alloc(64 * MIB))],
  ['a bomb of 64 members', Buffer.concat(Array(64).fill(gzipSync(Buffer.alloc(MIB))))],
  ['empty members', Buffer.concat(Array(50_000).fill(gzipSync('')))],
  ['empty deflate blocks with tables of their own', emptyBlocks(MIB - 64)],
  ['1 MiB that is cut off', gzipSync(Buffer.alloc(MIB, ' ')).subarray(0, -1)],
];

const BLANK: [name: string, text: string][] = [
  ['blank lines', '\n'],
  ['blank lines with \\r\\n', '\r\n'],
  ['spaces', ' '],
];

let run = 0;
const entries = createEntries();

/**
 * The valid bodies that the others of the path are compared with. Entries of a batch have all five fields, as in all
 * measurements.
 */
export const VALID: Record<string, Shape> = {
  '/entries, array': batch(VALID_NAME, 'array', () => `[${entries(BATCH).join()}]`, [207]),
  '/entries, lines': batch(VALID_NAME, 'lines', () => entries(BATCH).join('\n'), [207]),
  '/entry': {
    name: VALID_NAME,
    path: '/entry',
    type: 'application/json',
    statuses: [201, 202],
    isSingle: true,
    next: () => Buffer.from(entries(1)[0] as string),
  },
};

export const HOSTILE: Record<keyof typeof VALID, Shape[]> = {
  '/entries, array': [
    ...BLANK.map(([name, text]) => batch(name, 'array', constant(repeat(text, MIB)), [400])),
    ...VALUES.map(([name, make]) =>
      batch(`${name}, all in one`, 'array', constant(array([make(MIB - 2)])), [207, 400, 413]),
    ),
    ...VALUES.map(([name, make]) =>
      batch(`${name}, 16 KiB each`, 'array', constant(array(Array(63).fill(make(KIB_16)))), [207, 400]),
    ),
    batch('{},', 'array', constant(list('{}', MIB)), [413]),
    batch('a byte per entry', 'array', constant(list('1', MIB)), [413]),
    batch('1,000 entries padded to 1 MiB', 'array', () => `[${padded(entries(BATCH), MIB)}]`, [207]),
    batch(`${VALID_NAME}, gzip`, 'array', () => gzipSync(`[${entries(BATCH).join()}]`), [207], { isGzip: true }),
    ...COMPRESSED.map(([name, body]) => batch(name, 'array', constant(body), [400, 413], { isGzip: true })),
  ],
  '/entries, lines': [
    ...BLANK.map(([name, text]) => batch(name, 'lines', constant(repeat(text, MIB)), [207, 400])),
    batch('blank lines, with a key', 'lines', constant(repeat('\n', MIB)), [400], { isKeyed: true }),
    batch('blank lines in chunks of a byte', 'lines', constant(repeat('\n', MIB / 24)), [400], { chunkBytes: 1 }),
    batch('a byte per line', 'lines', constant(repeat('1\n', MIB)), [413]),
    batch('a byte per line, with a key', 'lines', constant(repeat('1\n', MIB)), [413], { isKeyed: true }),
    ...VALUES.map(([name, make]) => batch(`${name}, 16 KiB each`, 'lines', constant(lines(make(KIB_16), 63)), [207])),
    batch('deep arrays, with a key', 'lines', constant(lines('['.repeat(8_192) + ']'.repeat(8_192), 63)), [207], {
      isKeyed: true,
    }),
    batch('one line of 1 MiB', 'lines', constant(repeat('x', MIB)), [207]),
    batch(`${VALID_NAME}, gzip`, 'lines', () => gzipSync(entries(BATCH).join('\n')), [207], { isGzip: true }),
    ...COMPRESSED.map(([name, body]) => batch(name, 'lines', constant(body), [400, 413], { isGzip: true })),
  ],
  '/entry': [
    ...BLANK.map(([name, text]) => single(name, repeat(text, KIB_16))),
    ...VALUES.map(([name, make]) => single(name, make(KIB_16))),
    single('1 MiB', repeat(' ', MIB)),
    single('spaces in chunks of a byte', repeat(' ', KIB_16), { chunkBytes: 1 }),
    single('spaces in chunks of 32 bytes', repeat(' ', KIB_16), { chunkBytes: 32 }),
    single('a bomb of 64 MiB', gzipSync(Buffer.alloc(64 * MIB)).subarray(0, KIB_16), { isGzip: true }),
    single('empty deflate blocks with tables of their own', emptyBlocks(KIB_16 - 64), { isGzip: true }),
  ],
};

function batch(
  name: string,
  form: 'array' | 'lines',
  next: () => string | Buffer,
  statuses: number[],
  more: Pick<Shape, 'chunkBytes' | 'isKeyed' | 'isGzip'> = {},
): Shape {
  const type = form === 'array' ? 'application/json' : 'application/x-ndjson';
  return { name, path: '/entries', type, statuses, next: () => Buffer.from(next() as string), ...more };
}

function single(name: string, body: string | Buffer, more: Pick<Shape, 'chunkBytes' | 'isGzip'> = {}): Shape {
  const bytes = Buffer.from(body as string);
  return { name, path: '/entry', type: 'application/json', statuses: [400, 413], next: () => bytes, ...more };
}

function constant(body: string | Buffer): () => string | Buffer {
  return () => body;
}

function repeat(text: string, bytes: number): string {
  return text.repeat(Math.floor(bytes / text.length));
}

function list(value: string, bytes: number): string {
  return `[${repeat(`${value},`, bytes - 2 - value.length)}${value}]`;
}

function keys(bytes: number): string {
  const all: string[] = [];
  for (let size = 0, i = 0; size < bytes; i++) size += (all[all.push(`"k${i}":0`) - 1] as string).length + 1;
  return all.slice(0, -1).join();
}

function array(values: (string | Buffer)[]): Buffer {
  const parts = values.flatMap((value, i) => [Buffer.from(i === 0 ? '[' : ','), Buffer.from(value as string)]);
  return Buffer.concat([...parts, Buffer.from(']')]);
}

function lines(line: string | Buffer, count: number): Buffer {
  return Buffer.concat(Array(count).fill(Buffer.concat([Buffer.from(line as string), Buffer.from('\n')])));
}

function padded(values: string[], bytes: number): string {
  const spare = Math.floor((bytes - 2 - values.join().length) / values.length) - 11;
  return values.map((value) => `${value.slice(0, -1)},"other":"${'x'.repeat(spare)}"}`).join();
}

/**
 * gzip of nothing: deflate blocks of 90 bits, each with Huffman tables for which zlib allocates and fills kilobytes.
 */
function emptyBlocks(bytes: number): Buffer {
  const lengths = Array.from({ length: 18 }, (_, i) => (i === 2 || i === 17 ? '100' : '000')).join(''); // of the codes 18 and 1
  const zeros = `1${'1111111'}1${toBits(118 - 11, 7)}`; // 138 and 118 unused literals
  const block = `001${toBits(0, 5)}${toBits(0, 5)}${toBits(14, 4)}${lengths}${zeros}000`;
  const bits = `${block.repeat(Math.floor((8 * bytes) / block.length))}1${block.slice(1)}`;
  const packed = Array.from({ length: Math.ceil(bits.length / 8) }, (_, i) =>
    Number.parseInt([...bits.slice(8 * i, 8 * i + 8)].reverse().join(''), 2),
  );
  return Buffer.concat([Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3]), Buffer.from(packed), Buffer.alloc(8)]);
}

/** The lowest bit first, as deflate has it. */
function toBits(value: number, count: number): string {
  return [...value.toString(2).padStart(count, '0')].reverse().join('');
}

/** Returns entries of new customers with all five fields. */
function createEntries(): (count: number) => string[] {
  return (count) => {
    run++;
    return Array.from({ length: count }, (_, i) => {
      const n = `${run}-${String(i).padStart(6, '0')}`;
      return JSON.stringify({
        customerId: n,
        customerEmail: `customer.${n}@example.com`,
        customerPhone: `+49 30 ${n}`,
        customerFirstName: 'First',
        customerLastName: `Last ${n}`,
        customerIP: '203.0.113.7',
      });
    });
  };
}
