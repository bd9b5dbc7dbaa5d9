import { Command, Option } from 'commander';
import ms from 'ms';
import { type Moment, parseMoment, parsePositive } from '../parse.js';
import { type PrintOptions, print, toTable } from '../print.js';
import { withStore } from '../with-store.js';

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
    .addHelpText('after', '\nA row is written before the change, so the change itself may have failed.')
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
