import { PassThrough } from 'node:stream';
import { setTimeout as pause } from 'node:timers/promises';
import { stripVTControlCharacters } from 'node:util';
import { afterEach, describe, expect, test } from '@jest/globals';
import { type Bar, createBar } from './print.js';

let bar: Bar | undefined;
afterEach(() => bar?.stop());

const VALUES = {
  import: { imported: 4_444_444, rejected: 333_333, waiting: '' },
  export: {},
  replay: {},
  burst: { perSecond: 22_222, latency: '111.1/1111.1', statuses: '4444444 × 201, 111 × 429' },
};

const START_OF_LINE = '\u001b[1G';

/** Starts a bar on a stream that is not a terminal. */
function startOffTerminal(total: number, value: number) {
  const stream = new PassThrough();
  bar = createBar('import', { stream, lineIntervalMs: 1 });
  bar.start(total, VALUES.import);
  bar.update(value, VALUES.import);
  return stream;
}

describe('on a terminal with 80 columns, no line is cut:', () => {
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
    // It must not wait for the next line, because a bar whose text stays the same writes none.
    while (!written.includes(last)) {
      bar.increment(500_000, VALUES[command]);
      await pause(10); // without a pause, the bar would be complete before its first estimate
      written += stream.read() ?? '';
    }
    const lines = written.split(START_OF_LINE).map(stripVTControlCharacters);
    expect(Math.max(...lines.map((line) => line.trimEnd().length))).toBeLessThanOrEqual(80);
    for (const shown of Object.values(VALUES[command])) expect(written).toContain(String(shown));
  });
});

test('without a terminal, a line is printed per interval, and none for a command that ends sooner', async () => {
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

test('the remaining time is shown until the work is complete', async () => {
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

test('while the command waits, the reason is shown in place of the remaining time', async () => {
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
