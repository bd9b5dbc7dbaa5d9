import { Command, InvalidArgumentError } from 'commander';
import { NAMED_MEASURES, type NamedMeasure } from './named-measures.js';
import { runMeasures } from './run-measures.js';

const bench = new Command('bench')
  .description(
    'Measures the project next to its peers, on the servers of DATABASE_URL and REDIS_URL or, if unset, on its own.',
  )
  .option('--no-write', 'only print the results, do not update bench/README.md and bench/RESULTS.md')
  .action(({ write }: { write: boolean }) =>
    runMeasures(
      NAMED_MEASURES.flatMap((measure) => measure.withValues()),
      { write, summarize: true },
    ),
  );

for (const measure of NAMED_MEASURES) bench.addCommand(toCommand(measure));
await bench.parseAsync();

function toCommand({ name, description, settings, withValues }: NamedMeasure): Command {
  const command = new Command(name)
    .description(description)
    .option('--write', 'also write the results into bench/README.md or bench/RESULTS.md', false);
  for (const [setting, [value, help]] of Object.entries(settings)) {
    command.option(`--${toKebab(setting)} <n>`, help, parseCount, value);
  }
  return command.action(({ write, ...values }: { write: boolean } & Record<string, number>) =>
    runMeasures(withValues(values), { write, summarize: false }),
  );
}

function toKebab(camel: string): string {
  return camel.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

function parseCount(text: string): number {
  if (!/^[1-9]\d{0,7}$/.test(text)) throw new InvalidArgumentError('It must be a whole number from 1 to 99999999.');
  return Number(text);
}
