import type { RateLimit } from '@opm/core';
import { Command } from 'commander';
import { parseWholeNumber } from '../parse.js';
import { type PrintOptions, print, toTable } from '../print.js';
import { UserError } from '../user-error.js';
import { findProject, withStore } from '../with-store.js';

export function projectsCommand(env: NodeJS.ProcessEnv): Command {
  const projects = new Command('projects').description(
    'Manage projects. Each partner has one, with its own customers and API keys.',
  );

  projects
    .command('create')
    .argument('<name>')
    .option('--json', 'print JSON')
    .description('Create a project and its first API key, shown only once.')
    .action(async (name: string, options: PrintOptions) => {
      const project = await withStore(env, (store) => store.projects.create(name));
      print(options, project, [
        `Created project ${project.name} (id ${project.projectId}).`,
        `API key, shown only once: ${project.apiKey}`,
      ]);
    });

  projects
    .command('list')
    .option('--json', 'print JSON')
    .description('List all projects with their limits.')
    .action(async (options: PrintOptions) => {
      const list = await withStore(env, (store) => store.projects.list());
      print(options, list, toTable(list));
    });

  projects
    .command('limits')
    .argument('<name>')
    .option('--rate <entries>', 'entries per second that the project may send', parseWholeNumber)
    .option('--burst <entries>', 'entries that it may send at once after a quiet period', parseWholeNumber)
    .option('--none', 'remove the limit')
    .option('--json', 'print JSON')
    .description('Limit what a project may send, or show its limit. A change takes effect within about a second.')
    .action(async (name: string, options: PrintOptions & LimitFlags) => {
      const project = await withStore(env, async (store) => {
        const { projectId } = await findProject(store, name);
        if (hasLimit(options)) await store.projects.setLimit(projectId, toLimit(options));
        return (await store.projects.list()).find((listed) => listed.projectId === projectId);
      });
      const { rate, burst } = project ?? {};
      print(options, project, [
        rate
          ? `Project ${name} may send ${rate} entries per second, with a burst of ${burst}.`
          : `Project ${name} has no limit.`,
      ]);
    });

  return projects;
}

type LimitFlags = { rate?: number; burst?: number; none?: true };

const hasLimit = ({ rate, burst, none }: LimitFlags): boolean =>
  rate !== undefined || burst !== undefined || none === true;

/** @returns undefined for --none @throws UserError for any other combination than both --rate and --burst */
function toLimit({ rate, burst, none }: LimitFlags): RateLimit | undefined {
  if (none && rate === undefined && burst === undefined) return undefined;
  if (!none && rate !== undefined && burst !== undefined) return { rate, burst };
  throw new UserError('specify both --rate and --burst, or only --none');
}
