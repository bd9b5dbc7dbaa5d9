import type { AuditRecord, DeadLetterFilter, Store } from '@opm/store';
import { type Command, InvalidArgumentError } from 'commander';
import { type Moment, parseBigId, parseMoment } from '../parse.js';
import { findProject } from '../with-store.js';

export type FilterOptions = {
  id?: string;
  project?: string;
  since?: Moment;
  until?: Moment;
  error?: string;
  sqlState?: string;
};

/** Adds the options that select dead letters. A dead letter must match all given filters. */
export function addFilterOptions(command: Command): Command {
  return command
    .option('--id <id>', 'only the dead letter with this id', parseBigId)
    .option('--project <name>', 'only dead letters of this project')
    .option(
      '--since <time>',
      'only dead letters from this time on: 2026-11-24T18:00Z, or 24h for a day ago',
      parseMoment,
    )
    .option('--until <time>', 'only dead letters before this time', parseMoment)
    .option('--error <text>', 'only dead letters whose error contains this text, ignoring case', parseText)
    .option('--sql-state <state>', 'only dead letters with this SQLSTATE, or of this class, such as 22', parseSqlState)
    .addHelpText('after', '\nSeveral filters select the dead letters that match all of them.');
}

export const hasFilter = ({ id, project, since, until, error, sqlState }: FilterOptions): boolean =>
  [id, project, since, until, error, sqlState].some((option) => option !== undefined);

/** @throws UserError if there is no such project */
export async function toFilter(store: Store, options: FilterOptions): Promise<DeadLetterFilter> {
  const { id, project, since, until, error, sqlState } = options;
  const projectId = project === undefined ? undefined : (await findProject(store, project)).projectId;
  const now = since || until ? await store.now() : new Date(0);
  return { deadLetterId: id, projectId, since: since?.(now), until: until?.(now), error, sqlState };
}

/** Describes the filter for the audit log, without the text of an error, which may quote customer data. */
export function toAudited(
  { id, project, error }: FilterOptions,
  { since, until, sqlState }: DeadLetterFilter,
): Pick<AuditRecord, 'target' | 'details'> {
  const details = {
    ...(project !== undefined && id !== undefined && { id }),
    ...(since && { since: since.toISOString() }),
    ...(until && { until: until.toISOString() }),
    ...(sqlState !== undefined && { sqlState }),
    ...(error !== undefined && { byError: true }),
  };
  return { target: project ?? id, ...(Object.keys(details).length > 0 && { details }) };
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

export const countAll = (groups: { count: number }[]): number => groups.reduce((total, { count }) => total + count, 0);

export const toLetters = (count: number): string => `${count} dead ${count === 1 ? 'letter' : 'letters'}`;
