import { setTimeout as delay } from 'node:timers/promises';
import { type Answer, isUndecided, toAnswers } from './answer.js';

export type Decided = {
  /** None where nobody knows. */
  answer: Answer | undefined;
  /** How many attempts before the one that was answered may have had an effect of their own, at any time. */
  repeats: number;
};

const MAX_ATTEMPTS = 8;
const PAUSE_MS = 1_000;

/** Sends a request with the same idempotency key until it is decided, as a partner does, or for the last time. */
export async function sendUntilDecided(
  send: () => Promise<Answer | undefined>,
  pauseMs: number = PAUSE_MS,
): Promise<Decided> {
  let open = 0;
  for (let attempt = 1; ; attempt++) {
    const answer = await send();
    // The answer that is replayed is that of one of those.
    if (answer && !isToBeSentAgain(answer))
      return { answer, repeats: answer.isReplayed ? Math.max(open - 1, 0) : open };
    if (mayHaveActed(answer)) open++;
    if (attempt === MAX_ATTEMPTS) return { answer: open > 0 ? undefined : answer, repeats: open };
    await delay(pauseMs);
  }
}

/** Whether a request that got this may have had an effect which nobody knows of. */
function mayHaveActed(answer: Answer | undefined): boolean {
  if (!answer || answer.status === 207) return true;
  return answer.status === 503 && isUndecided(answer);
}

function isToBeSentAgain(answer: Answer): boolean {
  if (answer.status === 207) return toAnswers(answer, 0).some(({ status }) => status === 503);
  return answer.status === 503 || answer.status === 409;
}
