import { describeMachine } from '@opm/testkit';
import { describeGenerator } from './load/run-load.js';
import { type Report, toVerdictTable } from './report.js';
import { type Servers, startServers } from './servers.js';
import { writeSections } from './write-sections.js';

/** With its options already given. */
export type Measure = (servers: Servers) => Promise<Report>;

/**
 * Runs the measures one after the other and prints what they found, as Markdown.
 * @param write also into bench/README.md
 * @param summarize also what was expected of all of them, as a section of its own
 */
export async function runMeasures(measures: Measure[], options: { write: boolean; summarize: boolean }): Promise<void> {
  const servers = await startServers();
  const reports: Report[] = [];
  let machine: string;
  try {
    machine = await describeMachine(servers, [`load by ${await describeGenerator()}`]);
    for (const measure of measures) {
      // One that fails leaves its section as it was, and does not cost the others theirs.
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
