import {
  isAddressRule,
  isKeyLabel,
  type KeyRules,
  MAX_KEY_ADDRESSES,
  SCOPES,
  type Scope,
  toRuleTexts,
} from '@opm/core';
import { Command, InvalidArgumentError, Option } from 'commander';
import ms from 'ms';
import { parseDuration, parseWholeNumber } from '../parse.js';
import { confirm, type PrintOptions, print, toTable, YES } from '../print.js';
import { UserError } from '../user-error.js';
import { findProject, recordChange, withStore } from '../with-store.js';

export function keysCommand(env: NodeJS.ProcessEnv): Command {
  const keys = new Command('keys').description(
    'Manage the API keys of a project. Only the hash and the first 10 characters of a key are stored.',
  );

  keys
    .command('list')
    .argument('<project>')
    .option('--json', 'print JSON')
    .description('List the keys of a project, without their secrets.')
    .action(async (projectName: string, options: PrintOptions) => {
      const list = await withStore(env, async (store) =>
        store.apiKeys.list((await findProject(store, projectName)).projectId),
      );
      print(options, list, toTable(list.map((key) => ({ ...key, ...toRuleTexts(key) }))));
    });

  withRules(keys.command('create').argument('<project>'), `all of ${SCOPES.join(', ')}`, 'any')
    .option('--label <text>', 'label of the key', parseLabel)
    .option('--json', 'print JSON')
    .description('Issue another key, shown only once. The other keys stay valid.')
    .action(async (projectName: string, options: PrintOptions & RuleFlags) => {
      const { scopes = [...SCOPES], addresses = [] } = toRules(options);
      const created = await withStore(env, async (store) => {
        const { projectId } = await findProject(store, projectName);
        const details = toRuleTexts({ scopes, addresses });
        await recordChange(store, { action: 'keys create', target: projectName, details });
        const apiKey = await store.apiKeys.issue(projectId, { label: options.label, scopes, addresses });
        return { projectId, scopes, addresses, apiKey };
      });
      print(options, created, [`New API key, shown only once: ${created.apiKey}`, toSentence(created)]);
    });

  withRules(keys.command('rotate').argument('<project>'), 'as the keys that end', 'as the keys that end')
    .addOption(
      new Option('--grace <duration>', 'how long the old keys stay valid, such as 30m, 24h or 7d')
        .argParser(parseDuration)
        .default(ms('24h'), '24h'),
    )
    .option('--label <text>', 'what you call the new key', parseLabel)
    .option('--yes', 'do not ask: with `--grace 0s`, the old keys end at once')
    .option('--json', 'print JSON')
    .description('Issue a new key, shown only once. The old keys expire after the grace period.')
    .action(async (projectName: string, options: PrintOptions & RuleFlags & { grace: number; yes?: true }) => {
      const rules = toRules(options);
      if (options.grace === 0) await confirm(`All active keys of project ${projectName} will end now.`, options);
      const rotated = await withStore(env, async (store) => {
        const { projectId } = await findProject(store, projectName);
        const details = { graceSeconds: options.grace / 1_000, ...toRuleTexts(rules) };
        await recordChange(store, { action: 'keys rotate', target: projectName, details });
        return {
          projectId,
          ...(await store.apiKeys.rotate(projectId, { graceMs: options.grace, label: options.label, ...rules })),
        };
      });
      print(options, rotated, [
        `New API key, shown only once: ${rotated.apiKey}`,
        toSentence(rotated),
        `The old keys expire at ${rotated.oldKeysEndAt.toISOString()}.`,
      ]);
    });

  keys
    .command('label')
    .argument('<project>')
    .argument('<key>', 'id of the key, from `opm keys list`', parseWholeNumber)
    .argument('<text>', 'what you call it', parseLabel)
    .option('--json', 'print JSON')
    .description('Name a key, such as by the system that uses it.')
    .action(async (projectName: string, keyId: number, label: string, options: PrintOptions) => {
      await withStore(env, async (store) => {
        const { projectId } = await findProject(store, projectName);
        await recordChange(store, { action: 'keys label', target: `${projectName}/${keyId}` });
        if (await store.apiKeys.setLabel(projectId, keyId, label)) return;
        throw new UserError(`project "${projectName}" has no key ${keyId}`, 'not-found');
      });
      print(options, { keyId, label }, [`Key ${keyId} is now called ${label}.`]);
    });

  keys
    .command('revoke')
    .argument('<project>')
    .option('--key <id>', 'id of one key, from `opm keys list` (default: all active keys)', parseWholeNumber)
    .option(...YES)
    .option('--json', 'print JSON')
    .description('Revoke keys now, without a grace period.')
    .action(async (projectName: string, options: PrintOptions & { key?: number; yes?: true }) => {
      const which = options.key === undefined ? 'All active keys' : `Key ${options.key}`;
      await confirm(`${which} of project ${projectName} will be revoked.`, options);
      const revoked = await withStore(env, async (store) => {
        const { projectId } = await findProject(store, projectName);
        const target = options.key === undefined ? projectName : `${projectName}/${options.key}`;
        await recordChange(store, { action: 'keys revoke', target });
        const count = await store.apiKeys.revoke(projectId, { keyId: options.key });
        if (count > 0) return count;
        throw new UserError(
          `project "${projectName}" has no such active key: see \`opm keys list ${projectName}\``,
          'not-found',
        );
      });
      print(options, { revoked }, [`Revoked ${revoked} ${revoked === 1 ? 'key' : 'keys'}.`]);
    });

  return keys;
}

type RuleFlags = { label?: string; scope?: Scope[]; address?: string[] };

/** Adds --scope and --address. `scopes` and `addresses` describe the defaults in the help. */
function withRules(command: Command, scopes: string, addresses: string): Command {
  return command
    .option('--scope <scope>', `what the key may do (repeatable; default: ${scopes})`, addScope)
    .option(
      '--address <address>',
      `who may use it, such as 203.0.113.0/24 (repeatable; default: ${addresses})`,
      addAddress,
    );
}

function addScope(text: string, given: Scope[] = []): Scope[] {
  const scope = SCOPES.find((known) => known === text);
  if (scope === undefined) throw new InvalidArgumentError(`It must be one of ${SCOPES.join(', ')}.`);
  return [...new Set([...given, scope])];
}

const ANY = 'any';

function addAddress(text: string, given: string[] = []): string[] {
  if (text !== ANY && !isAddressRule(text)) {
    throw new InvalidArgumentError(
      `It must be an IP address or a block, such as 203.0.113.7, 203.0.113.0/24 or 2001:db8::/32, or ${ANY}.`,
    );
  }
  if (given.length === MAX_KEY_ADDRESSES) throw new InvalidArgumentError(`There may be ${MAX_KEY_ADDRESSES} at most.`);
  return [...given, text.toLowerCase()];
}

/** @throws UserError if `any` is not the only address */
function toRules({ scope, address }: RuleFlags): Partial<KeyRules> {
  if (address?.includes(ANY) && address.length > 1) {
    throw new UserError(`specify either --address ${ANY} or addresses`, 'usage');
  }
  return {
    ...(scope && { scopes: SCOPES.filter((known) => scope.includes(known)) }),
    ...(address && { addresses: address.filter((given) => given !== ANY) }),
  };
}

const toSentence = ({ scopes, addresses }: KeyRules): string =>
  `It may ${scopes.join(', ')}, from ${addresses.length > 0 ? addresses.join(', ') : 'any address'}.`;

function parseLabel(text: string): string {
  if (!isKeyLabel(text)) throw new InvalidArgumentError('It must have 1 to 100 characters, none of them a control.');
  return text;
}
