import type { DeadLetterFilter, Store } from '@opm/store';
import type { Command } from 'commander';
import { parseMoment } from '../parse-time.js';
import { parseWholeNumber } from '../parse-whole-number.js';
import { findProject } from '../with-store.js';

export type FilterOptions = { id?: number; project?: string; since?: Date; until?: Date; error?: string };

/** The options that say which dead letters are meant: those for which all that is given holds. */
export function addFilterOptions(command: Command): Command {
  return command
    .option('--id <id>', 'only this one', parseWholeNumber)
    .option('--project <name>', 'only those of this project')
    .option('--since <time>', 'only those from then on: 2026-11-24T18:00Z, or 24h for a day ago', parseMoment)
    .option('--until <time>', 'only those before then', parseMoment)
    .option('--error <text>', 'only those with this in their error, or with this SQLSTATE or class of SQLSTATE');
}

export const hasFilter = ({ id, project, since, until, error }: FilterOptions): boolean =>
  [id, project, since, until, error].some((option) => option !== undefined);

/** @throws UserError where there is no such project */
export async function toFilter(store: Store, options: FilterOptions): Promise<DeadLetterFilter> {
  const { id, project, since, until, error } = options;
  const projectId = project === undefined ? undefined : (await findProject(store, project)).projectId;
  return { deadLetterId: id === undefined ? undefined : String(id), projectId, since, until, error };
}
