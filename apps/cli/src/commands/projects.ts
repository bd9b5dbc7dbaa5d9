import type { RateLimit } from '@opm/core';
import { Command } from 'commander';
import { parseWholeNumber } from '../parse-whole-number.js';
import { type PrintOptions, print, toTable } from '../print.js';
import { UserError } from '../user-error.js';
import { findProject, withStore } from '../with-store.js';

export function projectsCommand(env: NodeJS.ProcessEnv): Command {
  const projects = new Command('projects').description('Partners, each with customers and an API key of its own.');

  projects
    .command('create')
    .argument('<name>')
    .option('--json', 'print JSON')
    .description('Create a project and its first API key, which is shown this once.')
    .action(async (name: string, options: PrintOptions) => {
      const project = await withStore(env, (store) => store.projects.create(name));
      print(options, project, [
        `Created project ${project.name} (id ${project.projectId}).`,
        `API key, shown this once: ${project.apiKey}`,
      ]);
    });

  projects
    .command('list')
    .option('--json', 'print JSON')
    .description('List all projects, with their limits.')
    .action(async (options: PrintOptions) => {
      const list = await withStore(env, (store) => store.projects.list());
      print(options, list, toTable(list));
    });

  projects
    .command('limits')
    .argument('<name>')
    .option('--rate <entries>', 'how many entries a second the project may send', parseWholeNumber)
    .option('--burst <entries>', 'how many at once, where it has sent none for a while', parseWholeNumber)
    .option('--none', 'remove the limit')
    .option('--json', 'print JSON')
    .description('Limit what a project may send, within about a second; show the limit where no option is given.')
    .action(async (name: string, options: PrintOptions & LimitFlags) => {
      const project = await withStore(env, async (store) => {
        const { projectId } = await findProject(store, name);
        if (hasLimit(options)) await store.projects.setLimit(projectId, toLimit(options));
        return (await store.projects.list()).find((listed) => listed.projectId === projectId);
      });
      const { rate, burst } = project ?? {};
      print(options, project, [
        rate
          ? `Project ${name} may send ${rate} entries a second, and ${burst} at once.`
          : `Project ${name} has no limit.`,
      ]);
    });

  return projects;
}

type LimitFlags = { rate?: number; burst?: number; none?: true };

const hasLimit = ({ rate, burst, none }: LimitFlags): boolean =>
  rate !== undefined || burst !== undefined || none === true;

/** @throws UserError where they say no limit, nor that there is to be none */
function toLimit({ rate, burst, none }: LimitFlags): RateLimit | undefined {
  if (none && rate === undefined && burst === undefined) return undefined;
  if (!none && rate !== undefined && burst !== undefined) return { rate, burst };
  throw new UserError('give --rate and --burst, or --none');
}
