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

/** A moment, given as such or as how long ago it was. @throws InvalidArgumentError, which commander shows with the option's name */
export function parseMoment(text: string): Date {
  const moment = /^\d{4}-\d\d-\d\d/.test(text) ? new Date(text) : new Date(Date.now() - parseAgo(text));
  if (Number.isNaN(moment.getTime())) throw new InvalidArgumentError(MOMENT);
  return moment;
}

const MOMENT = 'It must be a time such as 2026-11-24T18:00Z, or how long ago it was, such as 30m, 24h or 7d.';

function parseAgo(text: string): number {
  try {
    return parseDuration(text);
  } catch {
    throw new InvalidArgumentError(MOMENT);
  }
}
