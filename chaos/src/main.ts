import { randomInt } from 'node:crypto';
import { mkdir, mkdtemp, open, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { Command, InvalidArgumentError, Option } from 'commander';
import { checkRows, readEvidence } from './check/check-rows.js';
import { CLIENTS } from './load/clients.js';
import { createProgress, toReport } from './report.js';
import { type ChaosOptions, runChaos } from './run-chaos.js';

type Options = Pick<ChaosOptions, 'faults' | 'entries' | 'rate' | 'seed' | 'keyed' | 'queue'> & {
  directory?: string;
  report?: string;
};

/** Exits with 2 for wrong options; 1 means a broken promise. */
const exitOnError = ({ exitCode }: { exitCode: number }) => process.exit(exitCode && 2);

await new Command('chaos')
  .exitOverride(exitOnError)
  .description(
    'Starts the whole stack on its own stores, injects faults under load and checks every promise. ' +
      'Exits with 1 if a promise is broken, with 2 if the run cannot start.',
  )
  .option('--faults <n>', 'number of faults', parseCount, 50)
  .option(
    '--entries <n>',
    'number of entries to acknowledge before the run ends, including erasures',
    parseCount,
    20_000,
  )
  .option('--rate <n>', 'entries to send per second during the faults', parseCount, 500)
  .option('--seed <n>', 'seed of the faults and entries; random by default', parseCount)
  .option(
    '--keyed <n>',
    `how many of the ${CLIENTS} clients send idempotency keys and repeat each request until it is decided`,
    parseNumber,
    4,
  )
  .addOption(
    new Option('--queue <store>', 'where the queue is stored')
      .choices(['redis', 'cluster', 'postgres'])
      .default('redis'),
  )
  .option(
    '--directory <path>',
    'empty or new directory for data and logs; by default a temporary one, which is kept if a promise is broken',
  )
  .option('--report <file>', 'also write the report to this file')
  .action(chaos)
  .addCommand(
    new Command('check')
      .exitOverride(exitOnError)
      .description('Checks the ledger and the rows of a kept directory again.')
      .argument('<directory>')
      .action(check),
  )
  .parseAsync()
  .catch((error: Error) => {
    console.error(`chaos: ${error.message}`);
    process.exitCode = 2;
  });
process.exit(); // Abandoned work may still be pending and would keep the process alive.

async function chaos({ directory, report: reportFile, ...given }: Options): Promise<void> {
  if (reportFile) await (await open(reportFile, 'a')).close();
  const place = directory ? resolve(directory) : await mkdtemp(join(tmpdir(), 'opm-chaos-'));
  await mkdir(place, { recursive: true });
  if ((await readdir(place)).length > 0) throw new Error(`${place} is not empty`);
  const removePlace = () => rm(place, { recursive: true, force: true, maxRetries: 5 });
  const seed = given.seed ?? randomInt(1, 2 ** 31);
  const [end, giveUp] = [new AbortController(), new AbortController()];
  for (const signal of ['SIGINT', 'SIGTERM']) {
    process.on(signal, () => (end.signal.aborted ? giveUp : end).abort());
  }
  console.error(
    `seed ${seed}, data and logs in ${place}; Ctrl-C ends the load and starts the checks, a second Ctrl-C gives up`,
  );

  const progress = createProgress(given.faults);
  const options: ChaosOptions = {
    ...given,
    seed,
    directory: place,
    signal: end.signal,
    giveUp: giveUp.signal,
    onProgress: progress.show,
  };
  const result = await runChaos(options)
    .catch(async (error) => {
      if (!directory) await removePlace();
      throw error;
    })
    .finally(progress.stop);

  const report = `${toReport(options, result)}\n`;
  await writeFile(join(place, 'report.md'), report);
  process.stdout.write(report);
  if (reportFile) await writeFile(reportFile, report);
  if (result.findings.length > 0) {
    const { faults, entries, rate, keyed, queue } = options;
    const again = Object.entries({ faults, entries, rate, keyed, seed, queue }).map(
      ([name, value]) => `--${name} ${value}`,
    );
    console.error(`\nevidence kept in ${place}; to repeat the run: npm run chaos -- ${again.join(' ')}`);
    process.exitCode = 1;
  } else if (!directory) await removePlace();
}

async function check(directory: string): Promise<void> {
  const { customers, rows } = await readEvidence(directory);
  const findings = checkRows(customers, rows);
  for (const finding of findings) console.log(JSON.stringify(finding));
  console.log(`${findings.length} findings about ${customers.size} customers`);
  if (findings.length > 0) process.exitCode = 1;
}

function parseNumber(text: string): number {
  return text === '0' ? 0 : parseCount(text);
}

function parseCount(text: string): number {
  if (!/^[1-9]\d{0,9}$/.test(text)) throw new InvalidArgumentError('It must be a whole number from 1 to 9999999999.');
  return Number(text);
}
