import { Command, InvalidArgumentError, Option } from 'commander';
import type { ImportFileOptions } from '../customers/import.js';
import { FORMATS, type Format, parseMoment } from '../parse.js';
import { confirm, type PrintOptions, print, toTable, YES } from '../print.js';
import { STOPPED_EXIT_CODE, UserError } from '../user-error.js';
import type { QueueFlags } from '../with-queue.js';
import { findProject, recordChange, withStore } from '../with-store.js';

export function customersCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('customers')
    .description('Read, erase, import and export stored customers.')
    .addCommand(getCommand(env))
    .addCommand(eraseCommand(env))
    .addCommand(importCommand(env))
    .addCommand(exportCommand(env));
}

function getCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('get')
    .argument('<project>')
    .argument('<customer-id>')
    .option('--json', 'print JSON')
    .description('Show the stored row of one customer.')
    .action(async (projectName: string, customerId: string, options: PrintOptions) => {
      const customer = await withStore(env, async (store) =>
        store.customers.find((await findProject(store, projectName)).projectId, customerId),
      );
      if (!customer) {
        throw new UserError(
          `project "${projectName}" has no customer "${customerId}" (queued entries are not stored yet)`,
          'not-found',
        );
      }
      print(options, customer, toTable(Object.entries(customer).map(([column, value]) => ({ column, value }))));
    });
}

function eraseCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('erase')
    .argument('<project>')
    .argument('<customer-id>')
    .option(...YES)
    .option('--force', 'queue the erasure even if no worker takes jobs')
    .option('--json', 'print JSON')
    .description('Queue the erasure of a customer, like a DELETE of the partner. Entries sent later create it anew.')
    .action(async (projectName: string, customerId: string, options: PrintOptions & QueueFlags & { yes?: true }) => {
      const { Fault, parseCustomerId } = await import('@opm/contract');
      try {
        parseCustomerId(customerId);
      } catch (error) {
        throw error instanceof Fault
          ? new UserError(error.message.replace('path/customerId', 'the customer id'), 'usage')
          : error;
      }
      const { projectId } = await withStore(env, (store) => findProject(store, projectName));
      await confirm(`Customer ${customerId} of project ${projectName} will be erased.`, options);
      // Imported lazily because the queue package loads slowly.
      const [{ withQueue }, { eraseCustomer }, { toCustomerTarget }] = await Promise.all([
        import('../with-queue.js'),
        import('@opm/operations/actions'),
        import('@opm/store'),
      ]);
      const target = toCustomerTarget(projectName, customerId);
      await withQueue(env, options, async (queue, shards) => {
        await withStore(env, async (store) => {
          await recordChange(store, { action: 'customers erase', target });
          await eraseCustomer(queue, shards, { projectId, customerId });
        });
      });
      print(options, { projectId, customerId }, [`Queued the erasure of customer ${customerId}.`]);
    });
}

function importCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('import')
    .argument('<file>', 'NDJSON, or CSV whose first line names the columns')
    .requiredOption('--project <name>', 'project of the customers')
    .addOption(new Option('--format <format>', 'format of the file (default: from its name)').choices(FORMATS))
    .option('--delimiter <character>', 'column separator of CSV: one character, or tab', parseDelimiter, ',')
    .option(
      '--as-of <time>',
      'time of the data (default: when the file was last modified); newer data is kept',
      parseMoment,
    )
    .option('--rejected <file>', 'file for invalid lines (default: FILE.rejected.ndjson)')
    .option('--force', 'import even if no worker takes jobs')
    .option('--json', 'print JSON')
    .description(
      'Queue the lines of a file as entries. Importing the same file again changes nothing. Ctrl-C stops cleanly.',
    )
    .addHelpText('after', "\nIf no stack is running, set the workers' variables: DATABASE_URL, REDIS_URL, …")
    .action(async (file: string, options: PrintOptions & ImportFileOptions) => {
      // Imported lazily because the queue package loads slowly.
      const { importFile } = await import('../customers/import.js');
      const { imported, rejected, rejectedFile, isStopped } = await importFile(env, file, options);
      const lines = [`Queued ${toLines(imported)}.`];
      if (rejected > 0) lines.push(`${toLines(rejected)} rejected: see ${rejectedFile}.`);
      if (isStopped) lines.push('Stopped before the end of the file. Run the same import again to continue.');
      print(options, { imported, rejected, ...(isStopped && { isStopped }) }, lines);
      if (isStopped) process.exitCode = STOPPED_EXIT_CODE;
      else if (rejected > 0) process.exitCode = 1;
    });
}

function exportCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('export')
    .requiredOption('--project <name>', 'project of the customers')
    .addOption(new Option('--format <format>', 'output format').choices(FORMATS).default('ndjson'))
    .option('--escape-formulas', "in CSV, put ' before cells that begin with = + - @, a tab or a carriage return")
    .description('Write the customers to stdout, ordered by id, in a form that `import` reads.')
    .addHelpText(
      'after',
      '\nA CSV cell holds what the partner sent, and a spreadsheet may run it as a formula. Use' +
        '\n--escape-formulas for a file that you open in a spreadsheet. Do not `import` such a file: the' +
        '\napostrophes would become part of the values.',
    )
    .action(({ project, format, escapeFormulas = false }: ExportFlags) =>
      withStore(env, async (store) => {
        if (escapeFormulas && format !== 'csv') throw new UserError('--escape-formulas requires --format csv', 'usage');
        const { projectId } = await findProject(store, project);
        const { writeExport } = await import('../customers/export.js'); // lazily: the contract package loads slowly
        await writeExport({ customers: store.customers, projectId, format, escapeFormulas });
      }),
    );
}

type ExportFlags = { project: string; format: Format; escapeFormulas?: boolean };

const toLines = (count: number): string => `${count} ${count === 1 ? 'line' : 'lines'}`;

function parseDelimiter(text: string): string {
  if (text === 'tab' || text === '\\t') return '\t';
  if (/^[\t\x20-\x7e]$/.test(text) && text !== '"') return text;
  throw new InvalidArgumentError('It must be one ASCII character, such as ;, or tab.');
}
