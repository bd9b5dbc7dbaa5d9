import { readFile, writeFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { describeMachine } from '@opm/testkit';
import { Command, InvalidArgumentError } from 'commander';
import { describeGenerator } from './load/run-load.js';
import { type Measure, NAMED_MEASURES, type NamedMeasure } from './named-measures.js';
import { type Report, toVerdictTable } from './report.js';
import { startServers } from './servers.js';

/** The documents whose sections the results replace. */
const DOCUMENTS = ['README.md', 'RESULTS.md'].map((name) => fileURLToPath(new URL(`../${name}`, import.meta.url)));

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

/**
 * Runs the measurements one after the other and prints the results as Markdown.
 * @param write whether to also write them into bench/README.md and bench/RESULTS.md
 * @param summarize whether to add a section with the verdicts of all measurements
 */
async function runMeasures(measures: Measure[], options: { write: boolean; summarize: boolean }): Promise<void> {
  const servers = await startServers();
  const reports: Report[] = [];
  let machine: string;
  try {
    machine = await describeMachine(servers, [`load by ${await describeGenerator()}`]);
    for (const measure of measures) {
      // A failed measurement leaves its section unchanged and does not stop the others.
      await measure(servers).then(
        (report) => reports.push(report),
        (error) => {
          console.error(error);
          process.exitCode = 1;
        },
      );
    }
  } finally {
    await servers.stop();
  }
  const sections = new Map(reports.map(({ name, tables }) => [name, `${machine}:\n\n${tables}`]));
  const verdicts = reports.flatMap((report) => report.verdicts);
  for (const [name, markdown] of sections) console.log(`\n## ${name}\n\n${markdown}`);
  if (verdicts.length > 0) console.log(`\n${toVerdictTable(verdicts)}`);
  if (options.summarize) sections.set('summary', `${machine}:\n\n${toVerdictTable(verdicts)}`);
  if (options.write) await writeSections(sections);
}

/**
 * Replaces the text between `<!-- name:start -->` and `<!-- name:end -->` in the document that has these markers.
 * @throws Error if no document has them; no document is changed then
 */
async function writeSections(sections: Map<string, string>): Promise<void> {
  const documents = await Promise.all(DOCUMENTS.map(async (path) => ({ path, text: await readFile(path, 'utf8') })));
  for (const [name, markdown] of sections) {
    const [start, end] = [`<!-- ${name}:start -->`, `<!-- ${name}:end -->`];
    const document = documents.find(({ text }) => text.includes(start) && text.indexOf(end) > text.indexOf(start));
    if (!document) throw new Error(`bench/README.md and bench/RESULTS.md have no section ${name}`);
    const { text } = document;
    document.text = `${text.slice(0, text.indexOf(start) + start.length)}\n\n${markdown}\n\n${text.slice(text.indexOf(end))}`;
  }
  for (const { path, text } of documents) await writeFile(path, text);
}
