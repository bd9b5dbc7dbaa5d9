import { describe, expect, test } from '@jest/globals';
import type { Answer } from './answer.js';
import { sendUntilDecided } from './send-until-decided.js';

const answer = (status: number, text = '{}'): Answer => ({ status, text, isReplayed: false });
const replay = { ...answer(201), isReplayed: true };
const open = answer(503, 'entry was not accepted, try again');
const full = answer(503, 'entry was not accepted, too many are waiting, try again');
const partial = answer(207, '{"results":[{"statusCode":201},{"statusCode":503}]}');
const whole = answer(207, '{"results":[{"statusCode":201},{"statusCode":400}]}');

const run = (answers: (Answer | undefined)[]) =>
  sendUntilDecided(async () => (answers.length > 1 ? answers.shift() : answers[0]), 0);

describe('what is sent with a key until it is decided', () => {
  test.each<[string, (Answer | undefined)[], Answer | undefined, number]>([
    ['has its first answer', [answer(201)], answer(201), 0],
    ['was refused before', [full, answer(409), answer(201)], answer(201), 0],
    ['may have been accepted before', [undefined, answer(202)], answer(202), 1],
    ['may have been accepted before a 503', [open, answer(202)], answer(202), 1],
    ['had lost its answer', [undefined, answer(409), replay], replay, 0],
    ['had lost more than its answer', [undefined, open, open, replay], replay, 2],
    ['was accepted in part before', [partial, whole], whole, 1],
    ['is never known', [undefined], undefined, 8],
    ['is always refused', [full], full, 0],
    ['is no more than sent', [answer(500)], answer(500), 0],
    ['has an answer that cannot be read', [answer(207, '<html>')], answer(207, '<html>'), 0],
  ])('%s', async (_title, answers, last, repeats) => {
    expect(await run([...answers])).toEqual({ answer: last, repeats });
  });
});
