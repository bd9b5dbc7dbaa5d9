import { Command, InvalidArgumentError, Option } from 'commander';
import { FORMATS, type Format } from '../customers/format.js';
import type { ImportFileOptions } from '../customers/import-file.js';
import { parseMoment } from '../parse-time.js';
import { type PrintOptions, print, toTable } from '../print.js';
import { UserError } from '../user-error.js';
import { findProject, withStore } from '../with-store.js';

export function customersCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('customers')
    .description('Customers as they are stored.')
    .addCommand(getCommand(env))
    .addCommand(importCommand(env))
    .addCommand(exportCommand(env));
}

function getCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('get')
    .argument('<project>')
    .argument('<customer-id>')
    .option('--json', 'print JSON')
    .description('Show the row of one customer.')
    .action(async (projectName: string, customerId: string, options: PrintOptions) => {
      const customer = await withStore(env, async (store) =>
        store.customers.find((await findProject(store, projectName)).projectId, customerId),
      );
      if (!customer) {
        throw new UserError(
          `project "${projectName}" has no customer "${customerId}" (an entry that is still queued is not stored yet)`,
        );
      }
      print(options, customer, toTable(Object.entries(customer).map(([column, value]) => ({ column, value }))));
    });
}

function importCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('import')
    .argument('<file>', 'NDJSON, or CSV whose first line names the columns')
    .requiredOption('--project <name>', 'whose customers they are')
    .addOption(new Option('--format <format>', 'where the name of the file does not tell').choices(FORMATS))
    .option('--delimiter <character>', 'between the columns of CSV: one character, or tab', parseDelimiter, ',')
    .option(
      '--as-of <time>',
      'when this was true, if not when the file was changed last: newer data stays',
      parseMoment,
    )
    .option('--rejected <file>', 'for lines that are no entries, if not FILE.rejected.ndjson')
    .option('--force', 'also when no worker takes jobs at present')
    .option('--json', 'print JSON')
    .description('Queue the lines of a file as entries. Doing it again changes nothing. Ctrl-C ends it cleanly.')
    .addHelpText('after', '\nWithout a running stack it needs the variables of the workers: DATABASE_URL, REDIS_URL, …')
    .action(async (file: string, options: PrintOptions & ImportFileOptions) => {
      // Only now, for the queue takes longer to load than all the rest.
      const { importFile } = await import('../customers/import-file.js');
      const { imported, rejected, rejectedFile, isStopped } = await importFile(env, file, options);
      const lines = [`Queued ${toLines(imported)}.`];
      if (rejected > 0) lines.push(`${toLines(rejected)} rejected: see ${rejectedFile}.`);
      if (isStopped) lines.push('Stopped before the end of the file; import it again to go on.');
      print(options, { imported, rejected, ...(isStopped && { isStopped }) }, lines);
      if (isStopped) process.exitCode = 130;
      else if (rejected > 0) process.exitCode = 1;
    });
}

function exportCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('export')
    .requiredOption('--project <name>', 'whose customers')
    .addOption(new Option('--format <format>').choices(FORMATS).default('ndjson'))
    .option('--escape-formulas', "of CSV: put ' in front of cells that begin with = + - @, a tab or a carriage return")
    .description('Write the customers to stdout, in the order of their ids, as `import` reads them.')
    .addHelpText(
      'after',
      '\nCells of CSV are as partners sent them, and a spreadsheet may run some as formulas. With --escape-formulas they can be' +
        '\nopened in one, and `import` cannot read them back: it takes the apostrophe for a part of the value.',
    )
    .action(({ project, format, escapeFormulas = false }: ExportFlags) =>
      withStore(env, async (store) => {
        if (escapeFormulas && format !== 'csv') throw new UserError('--escape-formulas is for --format csv');
        const { projectId } = await findProject(store, project);
        const { writeExport } = await import('../customers/write-export.js'); // with the contract, which takes long to load
        await writeExport({ customers: store.customers, projectId, format, escapeFormulas });
      }),
    );
}

type ExportFlags = { project: string; format: Format; escapeFormulas?: boolean };

const toLines = (count: number): string => `${count} ${count === 1 ? 'line' : 'lines'}`;

function parseDelimiter(text: string): string {
  if (text === 'tab' || text === '\\t') return '\t';
  if (/^[\t\x20-\x7e]$/.test(text) && text !== '"') return text;
  throw new InvalidArgumentError('It must be one character of ASCII, such as ; or tab.');
}
