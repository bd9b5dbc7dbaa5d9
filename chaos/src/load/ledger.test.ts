import { describe, expect, test } from '@jest/globals';
import { type Answer, addReceipts, isReplayOf, type SentEntry, sendUntilDecided, toAnswers } from './ledger.js';

const answer = (status: number, text = '{}'): Answer => ({ status, text, isReplayed: false });
const replay = { ...answer(201), isReplayed: true };
const open = answer(503, 'entry was not accepted, try again');
const full = answer(503, 'entry was not accepted, too many are waiting, try again');
const partial = answer(207, '{"results":[{"statusCode":201},{"statusCode":503}]}');
const whole = answer(207, '{"results":[{"statusCode":201},{"statusCode":400}]}');

const run = (answers: (Answer | undefined)[]) =>
  sendUntilDecided(
    async () => (answers.length > 1 ? answers.shift() : answers[0]),
    async () => {},
  );

test('each accepted entry gets the different receipts of its answers', () => {
  const entries = [{ id: 1 }, { id: 2 }, { id: 3 }] as SentEntry[];
  const results = '"results":[{"statusCode":201},{"statusCode":503},{"statusCode":202}]';
  for (const receipts of ['["a",null,"b"]', '["a",null,"c"]']) {
    addReceipts(entries, toAnswers(answer(207, `{${results},"receipts":${receipts}}`), 3));
  }
  addReceipts(entries, toAnswers(open, 3));
  expect(entries).toEqual([{ id: 1, receipts: ['a'] }, { id: 2 }, { id: 3, receipts: ['b', 'c'] }]);
  const single = [{ id: 4 }] as SentEntry[];
  addReceipts(single, toAnswers({ ...answer(201), receipt: 'd' }, 1));
  expect(single).toEqual([{ id: 4, receipts: ['d'] }]);
});

test.each<[string, [number, number], boolean, boolean]>([
  ['the same status is a replay', [202, 202], false, true],
  ['a 202 is no replay of a 201', [201, 202], true, false],
  ['a 201 is no replay of a 202', [202, 201], false, false],
  ['a 201 is one if another attempt had no answer', [202, 201], true, true],
])('%s', (_, [first, again], isOpen, isReplay) => {
  const toBatch = (status: number) => answer(207, `{"results":[{"statusCode":400},{"statusCode":${status}}]}`);
  for (const to of [(status: number) => answer(status, String(status)), toBatch]) {
    expect(isReplayOf(to(first), to(again), isOpen)).toBe(isReplay);
  }
});

describe('a keyed request that is sent until it is decided', () => {
  test.each<[string, (Answer | undefined)[], Answer | undefined, number]>([
    ['may be answered at once', [answer(201)], answer(201), 0],
    ['may be refused first', [full, answer(201)], answer(201), 0],
    ['may have been accepted before an answer was lost', [undefined, answer(202)], answer(202), 1],
    ['may have been accepted before a 503', [open, answer(202)], answer(202), 1],
    ['may be replayed after a lost answer', [undefined, full, replay], replay, 1],
    ['may be replayed after several undecided attempts', [undefined, open, open, replay], replay, 3],
    ['may have been accepted in part before', [partial, whole], whole, 1],
    ['may stay unknown', [undefined], undefined, 8],
    ['may always be refused', [full], full, 0],
    ['is not repeated after an unexpected status', [answer(500)], answer(500), 0],
    ['is not repeated after a conflict', [answer(409)], answer(409), 0],
    ['is not repeated after an unreadable answer', [answer(207, '<html>')], answer(207, '<html>'), 0],
  ])('%s', async (_title, answers, last, attempts) => {
    expect(await run([...answers])).toEqual({ answer: last, open: attempts });
  });

  test('pauses between attempts, and knows whether the last answer was lost', async () => {
    const lost: boolean[] = [];
    const answers = [undefined, full, open, answer(201)];
    await sendUntilDecided(
      async () => answers.shift(),
      async (isLost) => void lost.push(isLost),
    );
    expect(lost).toEqual([true, false, false]);
  });
});
