import { InvalidArgumentError } from 'commander';

/** An id or a count on the command line. @throws InvalidArgumentError, which commander shows with the option's name */
export function parseWholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('It must be a whole number of at most 9 digits.');
  return Number(text);
}

/** A count of what there has to be some of. @throws InvalidArgumentError, which commander shows with the option's name */
export function parsePositive(text: string): number {
  const count = parseWholeNumber(text);
  if (count === 0) throw new InvalidArgumentError('It must be at least 1.');
  return count;
}

/** An id that PostgreSQL keeps as a bigint. @throws InvalidArgumentError, which commander shows with the option's name */
export function parseBigId(text: string): string {
  if (!/^\d{1,18}$/.test(text)) throw new InvalidArgumentError('It must be a whole number of at most 18 digits.');
  return text;
}
