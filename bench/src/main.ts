import { Command, InvalidArgumentError } from 'commander';
import { type DrainOptions, drain } from './drain/drain.js';

await new Command('bench')
  .description(
    'Measures the project side by side with its peers, on the servers of DATABASE_URL and REDIS_URL or, without, its own.',
  )
  .addCommand(
    new Command('drain')
      .description('How long one worker process takes to persist a backlog: new customers, and the same ones again.')
      .option('--entries <n>', 'entries in the backlog', parseCount, 300_000)
      .option('--textbook-entries <n>', 'entries for the textbook worker, which is slow', parseCount, 30_000)
      .option('--rounds <n>', 'how often everything is measured; medians are reported', parseCount, 3)
      .action((options: DrainOptions) => drain(options)),
  )
  .parseAsync();

function parseCount(text: string): number {
  if (!/^[1-9]\d{0,7}$/.test(text)) throw new InvalidArgumentError('It must be a whole number from 1 to 99999999.');
  return Number(text);
}
