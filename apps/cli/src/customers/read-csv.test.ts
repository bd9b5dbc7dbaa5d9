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
