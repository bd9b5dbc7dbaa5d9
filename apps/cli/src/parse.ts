import { InvalidArgumentError } from 'commander';
import ms, { type StringValue } from 'ms';

/** @returns milliseconds @throws InvalidArgumentError; commander prints it with the option's name */
export function parseDuration(text: string): number {
  // `ms` reads a bare number as milliseconds. Users never mean that, so a unit is required.
  const duration = /^\d+\s*[a-z]+$/i.test(text) ? ms(text as StringValue) : undefined;
  if (duration === undefined || duration > MAX_DURATION_MS) {
    throw new InvalidArgumentError('It must be a duration with its unit, such as 0s, 30m, 24h or 7d, up to 365d.');
  }
  return duration;
}

const MAX_DURATION_MS = ms('365d');

/**
 * Resolves a time argument. `now` is the store's clock, not this machine's; relative times such as `24h` count from it.
 */
export type Moment = (now: Date) => Date;

/**
 * Parses an ISO 8601 time or an age such as `24h`. A time without a zone is local; a day means its first moment.
 * @throws InvalidArgumentError; commander prints it with the option's name
 */
export function parseMoment(text: string): Moment {
  const { day, time } = TIME.exec(text)?.groups ?? {};
  if (day === undefined) {
    const ago = parseAgo(text);
    return (now) => new Date(now.getTime() - ago);
  }
  const moment = new Date(`${day}T${time ?? '00:00'}`); // Date parses a day without a time as UTC
  if (Number.isNaN(moment.getTime()) || !isDay(day)) throw new InvalidArgumentError(MOMENT);
  return () => moment;
}

/** The subset of ISO 8601 that is accepted: a day, and optionally minutes, seconds and a zone. */
const TIME = /^(?<day>\d{4}-\d\d-\d\d)(?:[T ](?<time>\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:\d\d)?))?$/;

/** Date parses February 30 as March 2. */
const isDay = (day: string): boolean => {
  const date = new Date(day);
  return !Number.isNaN(date.getTime()) && date.toISOString().startsWith(day);
};

const MOMENT = 'It must be a time such as 2026-11-24T18:00Z, or an age such as 30m, 24h or 7d.';

function parseAgo(text: string): number {
  try {
    return parseDuration(text);
  } catch {
    throw new InvalidArgumentError(MOMENT);
  }
}

/** Parses an id or a count. @throws InvalidArgumentError; commander prints it with the option's name */
export function parseWholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('It must be a whole number of at most 9 digits.');
  return Number(text);
}

/** Parses a count of at least 1. @throws InvalidArgumentError; commander prints it with the option's name */
export function parsePositive(text: string): number {
  const count = parseWholeNumber(text);
  if (count === 0) throw new InvalidArgumentError('It must be at least 1.');
  return count;
}

/** Parses a bigint id of PostgreSQL. @throws InvalidArgumentError; commander prints it with the option's name */
export function parseBigId(text: string): string {
  if (!/^\d{1,18}$/.test(text)) throw new InvalidArgumentError('It must be a whole number of at most 18 digits.');
  return text;
}

/** Formats of customer files, which are also their file name extensions. */
export const FORMATS = ['ndjson', 'csv'] as const;

export type Format = (typeof FORMATS)[number];
