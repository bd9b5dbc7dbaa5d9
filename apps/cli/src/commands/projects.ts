import { Command } from 'commander';
import { type PrintOptions, print, toTable } from '../print.js';
import { withStore } from '../with-store.js';

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
    .description('List all projects.')
    .action(async (options: PrintOptions) => {
      const list = await withStore(env, (store) => store.projects.list());
      print(options, list, toTable(list));
    });

  return projects;
}
