import type { Outcome, Sent } from './ledger.js';

export type Answer = {
  status: number;
  text: string;
  /** The first answer to its idempotency key, once more. */
  isReplayed: boolean;
};

/** What each entry of a request was answered: the same for all of them where they have no answers of their own; none where these cannot be read. */
export function toAnswers(answer: Answer, entries: number): Answer[] {
  if (answer.status !== 207) return Array.from({ length: entries }, () => answer);
  const { isReplayed } = answer;
  return parseResults(answer.text).map((result) => ({
    status: result.statusCode,
    text: JSON.stringify(result),
    isReplayed,
  }));
}

function parseResults(text: string): { statusCode: number }[] {
  try {
    return JSON.parse(text).results;
  } catch {
    return [];
  }
}

export const isUndecided = ({ text }: Answer) => text.includes(UNDECIDED);

/** Says that the entry may have been taken before the queue went away; other 503s promise that it was not looked at. */
const UNDECIDED = 'entry was not accepted, try again';

/** A Redis that is full for a while leaves a project less room for answers than it has taken. */
const TOO_MANY_KEYS = 'too many idempotency keys';

/** What an answer says of an entry's fate; undefined for one that no fault excuses. */
export function toOutcome({ erases }: Sent, answer: Answer): Outcome | undefined {
  const { status, text } = answer;
  if (status === 202 || (status === 201 && !erases)) return 'acknowledged';
  if (status === 404 && erases) return 'refused';
  if (status === 503) return isUndecided(answer) ? 'unknown' : 'refused';
  if (status === 409) return 'refused';
  if (status === 429 && text.includes(TOO_MANY_KEYS)) return 'refused';
  return undefined;
}
