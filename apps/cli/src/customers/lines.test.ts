import { Readable } from 'node:stream';
import { expect, test } from '@jest/globals';
import { readCsv } from './lines.js';

const OPTIONS = { delimiter: ',', onIgnored: () => {} };

test('a read error is thrown', async () => {
  async function* parts() {
    yield Buffer.from('customerId,customerPhone\n1,+1\n');
    throw new Error('EIO');
  }
  const readAll = async () => {
    for await (const _ of readCsv(parts(), OPTIONS));
  };
  await expect(readAll()).rejects.toThrow('EIO');
});

test('one file may mix line ends, and no cell holds any of them', async () => {
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

test('column names are reported as in the file, and escaped in errors', async () => {
  const parts = (header: string) => Readable.from([Buffer.from(`${header}\n1,+1,x,y\n`)]);
  const ignored: string[] = [];
  const onIgnored = (columns: string[]) => void ignored.push(...columns);
  for await (const _ of readCsv(parts('customerId,customerPhone,Straße,\x1b[31m'), { ...OPTIONS, onIgnored }));
  expect(ignored).toEqual(['Straße', '\x1b[31m']);
  const readTwice = async () => {
    for await (const _ of readCsv(parts('customerId,customerPhone,\x1b[31m,\x1b[31m'), OPTIONS));
  };
  await expect(readTwice()).rejects.toThrow('duplicate column "\\x1b[31m"');
});

test('a file that is not read to its end is closed', async () => {
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
