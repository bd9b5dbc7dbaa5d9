import type { DeadLetterFilter, Store } from '@opm/store';
import { type Command, InvalidArgumentError } from 'commander';
import { type Moment, parseMoment } from '../parse-time.js';
import { parseBigId } from '../parse-whole-number.js';
import { findProject } from '../with-store.js';

export type FilterOptions = {
  id?: string;
  project?: string;
  since?: Moment;
  until?: Moment;
  error?: string;
  sqlState?: string;
};

/** The options that say which dead letters are meant: those for which all that is given holds. */
export function addFilterOptions(command: Command): Command {
  return command
    .option('--id <id>', 'only this one', parseBigId)
    .option('--project <name>', 'only those of this project')
    .option('--since <time>', 'only those from then on: 2026-11-24T18:00Z, or 24h for a day ago', parseMoment)
    .option('--until <time>', 'only those before then', parseMoment)
    .option('--error <text>', 'only those with this text in their error, in upper or lower case', parseText)
    .option('--sql-state <state>', 'only those with this SQLSTATE, or of this class, such as 22', parseSqlState)
    .addHelpText('after', '\nSeveral filters together mean the letters for which all of them hold.');
}

export const hasFilter = ({ id, project, since, until, error, sqlState }: FilterOptions): boolean =>
  [id, project, since, until, error, sqlState].some((option) => option !== undefined);

/** @throws UserError where there is no such project */
export async function toFilter(store: Store, options: FilterOptions): Promise<DeadLetterFilter> {
  const { id, project, since, until, error, sqlState } = options;
  const projectId = project === undefined ? undefined : (await findProject(store, project)).projectId;
  const now = since || until ? await store.now() : new Date(0);
  return { deadLetterId: id, projectId, since: since?.(now), until: until?.(now), error, sqlState };
}

function parseText(text: string): string {
  if (text.trim() === '') throw new InvalidArgumentError('It must not be empty.');
  return text;
}

function parseSqlState(text: string): string {
  if (!/^[0-9A-Z]{2}(?:[0-9A-Z]{3})?$/i.test(text)) {
    throw new InvalidArgumentError('It must have 5 characters, such as 22021, or 2 for a class.');
  }
  return text.toUpperCase();
}
