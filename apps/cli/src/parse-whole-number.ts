import { InvalidArgumentError } from 'commander';

/** An id or a count on the command line. @throws InvalidArgumentError, which commander shows with the option's name */
export function parseWholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError('It must be a whole number.');
  return Number(text);
}
