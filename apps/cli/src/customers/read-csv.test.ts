import { Readable } from 'node:stream';
import { expect, test } from '@jest/globals';
import { readCsv } from './read-csv.js';

const OPTIONS = { delimiter: ',', onIgnored: () => {} };

test('a file that cannot be read to its end throws the reason', async () => {
  async function* parts() {
    yield Buffer.from('customerId,customerPhone\n1,+1\n');
    throw new Error('EIO');
  }
  const readAll = async () => {
    for await (const _ of readCsv(parts(), OPTIONS));
  };
  await expect(readAll()).rejects.toThrow('EIO');
});

test('lines may end in any way, in one file, too, and nothing of it is in a cell', async () => {
  const bytes = Buffer.from(
    'customerEmail,customerId\na@example.com,1\r\nb@example.com,2\n"c\r\n",3\rd@example.com,4\r\n',
  );
  for (let at = 1; at < bytes.length; at++) {
    const ids: unknown[] = [];
    const parts = Readable.from([bytes.subarray(0, at), bytes.subarray(at)]);
    for await (const lines of readCsv(parts, OPTIONS))
      ids.push(...lines.map((line) => Object.values(line.toBody() as object)));
    expect(ids).toEqual([
      ['a@example.com', '1'],
      ['b@example.com', '2'],
      ['c\r\n', '3'],
      ['d@example.com', '4'],
    ]);
  }
});

test('what is said of columns is what the file has, and nothing that a terminal obeys', async () => {
  const parts = (header: string) => Readable.from([Buffer.from(`${header}\n1,+1,x,y\n`)]);
  const ignored: string[] = [];
  const onIgnored = (columns: string[]) => void ignored.push(...columns);
  for await (const _ of readCsv(parts('customerId,customerPhone,Straße,\x1b[31m'), { ...OPTIONS, onIgnored }));
  expect(ignored).toEqual(['Straße', '\x1b[31m']);
  const readTwice = async () => {
    for await (const _ of readCsv(parts('customerId,customerPhone,\x1b[31m,\x1b[31m'), OPTIONS));
  };
  await expect(readTwice()).rejects.toThrow('it has two columns "\\x1b[31m"');
});

test('a file that is not read to its end is let go', async () => {
  let release: () => void;
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  async function* parts() {
    try {
      yield Buffer.from('customerId,customerPhone\n');
      for (;;) yield Buffer.from('1,+1\n');
    } finally {
      release();
    }
  }
  for await (const _ of readCsv(parts(), OPTIONS)) break;
  await released;
});
