import { text } from 'node:stream/consumers';
import type { Operator, Role, Store } from '@opm/store';
import { Argument, Command, Option } from 'commander';
import ms from 'ms';
import { type Moment, parseMoment, parsePositive } from '../parse.js';
import { confirm, type PrintOptions, print, toTable, YES } from '../print.js';
import { UserError } from '../user-error.js';
import { recordChange, withStore } from '../with-store.js';

/**
 * What each role may do. The compiler compares the roles with those of the store, which loads too slowly for `--help`.
 */
const ABILITIES: Record<Role, string> = {
  viewer: 'can read',
  operator: 'can also make changes',
  admin: 'can do everything',
};
const ROLES = Object.keys(ABILITIES);

export function operatorsCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('operators')
    .description('Manage the people who may log in to the console.')
    .addHelpText(
      'after',
      `\nA viewer ${ABILITIES.viewer}, an operator ${ABILITIES.operator}, an admin ${ABILITIES.admin}. While no operator is an admin,` +
        '\nthe name admin with CONSOLE_PASSWORD opens the console too.',
    )
    .addCommand(addCommand(env))
    .addCommand(listCommand(env))
    .addCommand(roleCommand(env))
    .addCommand(passwordCommand(env))
    .addCommand(removeCommand(env));
}

function addCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('add')
    .argument('<name>', 'what the operator types to log in, such as ada')
    .addOption(new Option('--role <role>', 'what the operator may do').choices(ROLES).makeOptionMandatory())
    .option('--reveal', 'the operator may see what partners sent, unmasked')
    .option('--password-stdin', 'read the password from stdin instead of generating one')
    .option('--json', 'print JSON')
    .description('Add an operator. A generated password is shown only once.')
    .action(async (name: string, options: PrintOptions & PasswordFlags & { role: Role; reveal?: true }) => {
      const operator: Operator = { name, role: options.role, mayReveal: options.reveal === true };
      const { assertOperatorName, assertPassword } = await import('@opm/store');
      const [password, notes] = await withStore(env, async (store) => {
        assertOperatorName(name);
        const given = await readPassword(options);
        assertPassword(given);
        if (await store.operators.find(name)) throw new UserError(`an operator named "${name}" already exists`);
        const { role, mayReveal } = operator;
        return recordAndChange(
          store,
          { action: 'operators add', target: name, details: { role, mayReveal } },
          async () => {
            await store.operators.add({ ...operator, password: given });
            return given;
          },
        );
      });
      const lines = [`Added ${toText(operator)}.`, ...notes];
      printPassword(options, operator, password, lines);
    });
}

function listCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('list')
    .option('--json', 'print JSON')
    .description('List the operators.')
    .action(async (options: PrintOptions) => {
      const list = await withStore(env, (store) => store.operators.list());
      print(options, list, toTable(list));
    });
}

function roleCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('role')
    .argument('<name>')
    .addArgument(new Argument('<role>', 'what the operator may do').choices(ROLES))
    .option('--reveal', 'the operator may see what partners sent, unmasked')
    .option('--no-reveal', 'the operator may no longer see it')
    .option('--json', 'print JSON')
    .description('Change what an operator may do. It ends the sessions of the operator.')
    .action(async (name: string, role: Role, options: PrintOptions & { reveal?: boolean }) => {
      const [operator, notes] = await withStore(env, async (store) => {
        const { mayReveal } = await findOperator(store, name);
        const wanted = { role, mayReveal: options.reveal ?? mayReveal };
        return recordAndChange(store, { action: 'operators role', target: name, details: wanted }, async () => {
          assertFound(await store.operators.setRole(name, wanted), name);
          return { name, ...wanted };
        });
      });
      print(options, operator, [`Changed ${toText(operator)}.`, ...notes]);
    });
}

function passwordCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('password')
    .argument('<name>')
    .option('--password-stdin', 'read the password from stdin instead of generating one')
    .option('--json', 'print JSON')
    .description('Give an operator a new password, shown only once. It ends the sessions of the operator.')
    .action(async (name: string, options: PrintOptions & PasswordFlags) => {
      const { assertPassword } = await import('@opm/store');
      const password = await withStore(env, async (store) => {
        await findOperator(store, name);
        const given = await readPassword(options);
        assertPassword(given);
        await recordChange(store, { action: 'operators password', target: name });
        assertFound(await store.operators.setPassword(name, given), name);
        return given;
      });
      printPassword(options, { name }, password, [`${name} has a new password.`]);
    });
}

function removeCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('remove')
    .argument('<name>')
    .option(...YES)
    .option('--json', 'print JSON')
    .description('Remove an operator. It ends the sessions of the operator.')
    .action(async (name: string, options: PrintOptions & { yes?: true }) => {
      await withStore(env, (store) => findOperator(store, name));
      await confirm(`Operator ${name} will be removed.`, options);
      const [, notes] = await withStore(env, (store) =>
        recordAndChange(store, { action: 'operators remove', target: name }, async () =>
          assertFound(await store.operators.remove(name), name),
        ),
      );
      print(options, { name }, [`Removed ${name}.`, ...notes]);
    });
}

/**
 * Makes a change and writes its audit row. @returns the result, and notes on what the change means for CONSOLE_PASSWORD
 */
async function recordAndChange<T>(
  store: Store,
  audited: Parameters<typeof recordChange>[1],
  change: () => Promise<T>,
): Promise<[result: T, notes: string[]]> {
  const hadAdmin = await store.operators.hasAdmin();
  await recordChange(store, audited);
  const result = await change();
  const hasAdmin = await store.operators.hasAdmin();
  if (hadAdmin === hasAdmin) return [result, []];
  return [
    result,
    [
      hasAdmin
        ? 'CONSOLE_PASSWORD is not accepted any more.'
        : 'No operator is an admin: CONSOLE_PASSWORD is accepted again.',
    ],
  ];
}

async function findOperator(store: Store, name: string): Promise<Operator> {
  const operator = await store.operators.find(name);
  if (!operator) throw notFound(name);
  return operator;
}

function assertFound(isFound: boolean, name: string): void {
  if (!isFound) throw notFound(name);
}

const notFound = (name: string) =>
  new UserError(`there is no operator "${name}": see \`opm operators list\``, 'not-found');

type PasswordFlags = { passwordStdin?: true };

/** @returns the first line of stdin, or a generated password */
async function readPassword({ passwordStdin }: PasswordFlags): Promise<string> {
  if (!passwordStdin) {
    const { generatePassword } = await import('@opm/store');
    return generatePassword();
  }
  if (process.stdin.isTTY) throw new UserError('--password-stdin reads from a pipe, not from the terminal', 'usage');
  return (await text(process.stdin)).replace(/\r?\n.*$/s, '');
}

function printPassword(
  options: PrintOptions & PasswordFlags,
  operator: object,
  password: string,
  lines: string[],
): void {
  if (options.passwordStdin) print(options, operator, lines);
  else print(options, { ...operator, password }, [...lines, `Password, shown only once: ${password}`]);
}

const toText = ({ name, role, mayReveal }: Operator) => `${name}, role ${role}${mayReveal ? ', may reveal data' : ''}`;

const A_DAY_AGO: Moment = (now) => new Date(now.getTime() - ms('24h'));

export function auditCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('audit')
    .addOption(
      new Option('--since <time>', 'from this time on: 2026-11-24T18:00Z, or 24h for a day ago')
        .argParser(parseMoment)
        .default(A_DAY_AGO, '24h'),
    )
    .option('--actor <name>', 'only what this operator, or this user of the operating system, did')
    .option('--limit <n>', 'maximum number of rows', parsePositive, 100)
    .option('--json', 'print JSON')
    .description('List what operators did in the console and with this command, newest first.')
    .addHelpText('after', '\nThe outcome says if a change was not done, or failed and may have been done in part.')
    .action(async ({ since, actor, limit, ...options }: PrintOptions & AuditFlags) => {
      const rows = await withStore(env, async (store) =>
        store.audit.list({ actor, since: since(await store.now()) }, { limit }),
      );
      const cells = rows.map(({ auditId: _, details, ...row }) => ({
        ...row,
        details: details && JSON.stringify(details),
      }));
      print(options, rows, toTable(cells));
    });
}

type AuditFlags = { since: Moment; actor?: string; limit: number };
