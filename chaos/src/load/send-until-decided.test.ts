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
  test.each<[string, (Answer | undefined)[], Answer | undefined, boolean]>([
    ['has its first answer', [answer(201)], answer(201), false],
    ['was refused before', [full, answer(409), answer(201)], answer(201), false],
    ['may have been accepted before', [undefined, answer(202)], answer(202), true],
    ['may have been accepted before a 503', [open, answer(202)], answer(202), true],
    ['had lost its answer', [undefined, answer(409), replay], replay, false],
    ['had lost more than its answer', [undefined, open, replay], replay, true],
    ['was accepted in part before', [partial, whole], whole, true],
    ['is never known', [undefined], undefined, true],
    ['is always refused', [full], full, false],
    ['is no more than sent', [answer(500)], answer(500), false],
    ['has an answer that cannot be read', [answer(207, '<html>')], answer(207, '<html>'), false],
  ])('%s', async (_title, answers, last, isRepeated) => {
    expect(await run([...answers])).toEqual({ answer: last, isRepeated });
  });
});
