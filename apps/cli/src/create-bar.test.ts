import { PassThrough } from 'node:stream';
import { stripVTControlCharacters } from 'node:util';
import { afterEach, describe, expect, test } from '@jest/globals';
import { type Bar, createBar } from './create-bar.js';

let bar: Bar | undefined;
afterEach(() => bar?.stop());

const VALUES = {
  import: { imported: 4_444_444, rejected: 333_333, waiting: '' },
  export: {},
  replay: {},
  burst: { perSecond: 22_222, latency: '111.1/1111.1', statuses: '4444444 × 201, 111 × 429' },
};

const START_OF_LINE = '\u001b[1G';

/** What is written before the bar is stopped, where it is no terminal. */
function startOffTerminal(total: number, value: number) {
  const stream = new PassThrough();
  bar = createBar('import', { stream, lineIntervalMs: 1 });
  bar.start(total, VALUES.import);
  bar.update(value, VALUES.import);
  return stream;
}

describe('on a terminal of 80 columns, nothing is cut:', () => {
  test.each<[keyof typeof VALUES, last: string]>([
    ['import', 'left'],
    ['export', ' customers'],
    ['replay', 'left'],
    ['burst', '× 429'],
  ])('%s', async (command, last) => {
    const stream = Object.assign(new PassThrough(), { isTTY: true, columns: 80 });
    bar = createBar(command, { stream });
    bar.start(9_999_999_999, VALUES[command]);
    let written = '';
    for await (const part of stream) {
      written += part;
      bar.increment(500_000, VALUES[command]);
      if (written.includes(last)) break;
    }
    const lines = written.split(START_OF_LINE).map(stripVTControlCharacters);
    expect(Math.max(...lines.map((line) => line.trimEnd().length))).toBeLessThanOrEqual(80);
    for (const shown of Object.values(VALUES[command])) expect(written).toContain(String(shown));
  });
});

test('where there is no terminal, lines come from time to time, and none for what is done before', async () => {
  const stream = startOffTerminal(10, 5);
  for await (const part of stream) {
    expect(String(part)).toBe('[======------] 50 %, 4444444 imported, 333333 rejected\n');
    break;
  }
  bar?.stop();
  const silent = startOffTerminal(10, 10);
  bar?.stop();
  expect(silent.read()).toBe(null);
});

test('the time that is left is told, and not where nothing is left', async () => {
  const stream = new PassThrough();
  bar = createBar('replay', { stream, lineIntervalMs: 1 });
  bar.start(1_000_000);
  let text = '';
  for await (const part of stream) {
    text += part;
    bar.increment(text.includes('left') ? 1_000_000 : 1);
    if (text.includes('100 %')) break;
  }
  expect(text).toMatch(/\d[sm] left\n/);
  expect(text).not.toMatch(/100 %.*left|NULL|LL|INF/);
});

test('what is waited for is told in the place of the time that is left', async () => {
  const stream = new PassThrough();
  const values = { ...VALUES.import, waiting: ', waiting: 50000 queued' };
  bar = createBar('import', { stream, lineIntervalMs: 1 });
  bar.start(1_000_000, values);
  let text = '';
  for await (const part of stream) {
    text += part;
    bar.increment(1, values);
    if (text.split('\n').length > 20) break;
  }
  const [line = ''] = text.split('\n').slice(-2);
  expect(line).toMatch(/rejected, waiting: 50000 queued$/);
  expect(line.length).toBeLessThanOrEqual(80);
});
