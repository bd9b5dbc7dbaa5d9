import { Command, Option } from 'commander';
import ms from 'ms';
import { parseDuration } from '../parse-time.js';
import { parseWholeNumber } from '../parse-whole-number.js';
import { type PrintOptions, print, toTable } from '../print.js';
import { UserError } from '../user-error.js';
import { findProject, withStore } from '../with-store.js';

export function keysCommand(env: NodeJS.ProcessEnv): Command {
  const keys = new Command('keys').description('API keys of a project. Only their hashes are stored.');

  keys
    .command('list')
    .argument('<project>')
    .option('--json', 'print JSON')
    .description('List the keys of a project, without their secrets.')
    .action(async (projectName: string, options: PrintOptions) => {
      const list = await withStore(env, async (store) =>
        store.apiKeys.list((await findProject(store, projectName)).projectId),
      );
      print(options, list, toTable(list));
    });

  keys
    .command('rotate')
    .argument('<project>')
    .addOption(
      new Option('--grace <duration>', 'how long the old keys stay valid, such as 30m, 24h or 7d')
        .argParser(parseDuration)
        .default(ms('24h'), '24h'),
    )
    .option('--json', 'print JSON')
    .description('Issue a new key, which is shown this once; the old ones end after the grace period.')
    .action(async (projectName: string, options: PrintOptions & { grace: number }) => {
      const rotated = await withStore(env, async (store) => {
        const { projectId } = await findProject(store, projectName);
        return { projectId, ...(await store.apiKeys.rotate(projectId, { graceMs: options.grace })) };
      });
      print(options, rotated, [
        `New API key, shown this once: ${rotated.apiKey}`,
        `The old ones end at ${rotated.oldKeysEndAt.toISOString()}.`,
      ]);
    });

  keys
    .command('revoke')
    .argument('<project>')
    .option('--key <id>', 'only this key, by its id from `opm keys list`; all active keys otherwise', parseWholeNumber)
    .option('--json', 'print JSON')
    .description('End keys now.')
    .action(async (projectName: string, options: PrintOptions & { key?: number }) => {
      const revoked = await withStore(env, async (store) => {
        const { projectId } = await findProject(store, projectName);
        return store.apiKeys.revoke(projectId, { keyId: options.key });
      });
      if (revoked === 0)
        throw new UserError(`project "${projectName}" has no such active key: see \`opm keys list ${projectName}\``);
      print(options, { revoked }, [`Revoked ${revoked} ${revoked === 1 ? 'key' : 'keys'}.`]);
    });

  return keys;
}
