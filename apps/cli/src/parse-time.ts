import { InvalidArgumentError } from 'commander';
import ms, { type StringValue } from 'ms';

/** @returns milliseconds @throws InvalidArgumentError, which commander shows with the option's name */
export function parseDuration(text: string): number {
  // A bare number would be milliseconds, and is always meant to be something else.
  const duration = /^\d+\s*[a-z]+$/i.test(text) ? ms(text as StringValue) : undefined;
  if (duration === undefined || duration > MAX_DURATION_MS) {
    throw new InvalidArgumentError('It must be a duration with its unit, such as 0s, 30m, 24h or 7d, up to 365d.');
  }
  return duration;
}

const MAX_DURATION_MS = ms('365d');

/** A moment as it was given; some count from `now`, which is for the store to say and not for this machine. */
export type Moment = (now: Date) => Date;

/**
 * A moment, given as such or as how long ago it was. Without a zone it is local, and a day is its first moment.
 * @throws InvalidArgumentError, which commander shows with the option's name
 */
export function parseMoment(text: string): Moment {
  const { day, time } = TIME.exec(text)?.groups ?? {};
  if (day === undefined) {
    const ago = parseAgo(text);
    return (now) => new Date(now.getTime() - ago);
  }
  const moment = new Date(`${day}T${time ?? '00:00'}`); // JavaScript takes a day alone for one in UTC
  if (Number.isNaN(moment.getTime()) || !isDay(day)) throw new InvalidArgumentError(MOMENT);
  return () => moment;
}

/** ISO 8601, as far as times are given to a shell. */
const TIME = /^(?<day>\d{4}-\d\d-\d\d)(?:[T ](?<time>\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?))?$/;

/** JavaScript takes the 30th of February for the 2nd of March. */
const isDay = (day: string): boolean => {
  const date = new Date(day);
  return !Number.isNaN(date.getTime()) && date.toISOString().startsWith(day);
};

const MOMENT = 'It must be a time such as 2026-11-24T18:00Z, or how long ago it was, such as 30m, 24h or 7d.';

function parseAgo(text: string): number {
  try {
    return parseDuration(text);
  } catch {
    throw new InvalidArgumentError(MOMENT);
  }
}
