import { Command, InvalidArgumentError, Option } from 'commander';
import ms from 'ms';
import { type BurstResult, burst, type Progress } from '../burst/burst.js';
import { type Address, findAddress, openTarget } from '../burst/target.js';
import { createBar } from '../create-bar.js';
import { parseDuration } from '../parse-time.js';
import { parsePositive } from '../parse-whole-number.js';
import { type PrintOptions, print } from '../print.js';
import { withInterrupt } from '../with-interrupt.js';

type BurstFlags = PrintOptions &
  Partial<Address> & {
    entries: number;
    rate?: number;
    connections?: number;
    batch: number;
    customers?: number;
    updates?: true;
    wait: number;
  };

const MAX_BATCH = 1_000;
/** More than one address has ports for, or a process files, is of no use. */
const MAX_CONNECTIONS = 10_000;
/** Where entries are to be updates, and nobody says of how many customers. */
const UPDATED_CUSTOMERS = 1_000;

export function burstCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('burst')
    .option('--url <url>', 'address of the API; otherwise OPM_URL, or the stack that runs here')
    .option('--key <key>', 'API key; otherwise OPM_KEY, which other users of the machine cannot see, or the demo key')
    .option('--entries <n>', 'how many entries to send', parsePositive, 10_000)
    .option('--rate <n>', 'entries per second; as fast as it goes without it', parsePositive)
    .option('--batch <n>', 'entries per request, 1 to 1000', parseUpTo(MAX_BATCH), 1)
    .option(
      '--connections <n>',
      'requests at the same time, 1 to 10000; without it 50, or 4 of batches',
      parseUpTo(MAX_CONNECTIONS),
    )
    .option('--customers <n>', 'how many customers they are of; each is of another one without it', parsePositive)
    .option('--updates', 'create the customers first, so that all entries are updates; 1000 without --customers')
    .addOption(
      new Option('--wait <duration>', 'how long to wait until all is stored; 0s does not look')
        .argParser(parseDuration)
        .default(ms('60s'), '60s'),
    )
    .option('--json', 'print JSON')
    .description('Send entries of made-up customers and measure the answers. Ctrl-C ends it cleanly.')
    .addHelpText('after', '\nEnds with 1 where an entry was refused, not answered, or accepted and not stored in time.')
    .action(async (flags: BurstFlags) => {
      const result = await burstWithBar(await findAddress(flags, env), flags);
      print(flags, result, toLines(result));
      if (result.isStopped) process.exitCode = 130;
      if (hasFailed(result)) process.exitCode = 1;
    });
}

async function burstWithBar(address: Address, flags: BurstFlags): Promise<BurstResult> {
  const { entries, updates = false } = flags;
  const customers = flags.customers ?? (updates ? Math.min(entries, UPDATED_CUSTOMERS) : entries);
  const connections = flags.connections ?? (flags.batch === 1 ? 50 : 4);
  const target = await openTarget(address, connections);
  const bar = createBar('burst');
  bar.start(entries, NOTHING_YET);
  try {
    const onProgress = (progress: Progress) => bar.update(progress.sent, toReport(progress));
    const { batch, rate, wait } = flags;
    const options = { total: entries, customers, connections, batch, rate, updates, waitMs: wait };
    return await withInterrupt((signal) => burst(target, options, { onProgress, signal }));
  } finally {
    bar.stop();
    await target.close();
  }
}

function hasFailed({ refused, unanswered, stored, isStopped }: BurstResult): boolean {
  return refused > 0 || unanswered > 0 || (stored !== null && stored.missing.length > 0 && !isStopped);
}

function toLines(result: BurstResult): string[] {
  const { url, sent, accepted, seconds, acceptedPerSecond, p50Ms, p99Ms, maxMs, statuses, customerId } = result;
  return [
    `Sent ${sent} entries to ${url} in ${seconds.toFixed(2)} s; ${accepted} were accepted, ${Math.round(acceptedPerSecond)} per second.`,
    ...(sent > 0 ? [`Answers: ${toCounts(statuses)}`] : []),
    ...(maxMs > 0 ? [`Latency: p50 ${toMs(p50Ms)}, p99 ${toMs(p99Ms)}, at most ${toMs(maxMs)}`] : []),
    ...toStoredLines(result),
    ...(result.isStopped ? ['Stopped.'] : []),
    ...(customerId === null ? [] : [`One of the customers: ${customerId}`]),
  ];
}

function toStoredLines({ stored, isStopped }: BurstResult): string[] {
  if (!stored || (isStopped && stored.missing.length > 0)) return [];
  const { sampled, missing, seconds } = stored;
  const sample = `a sample of ${sampled} ${sampled === 1 ? 'customer' : 'customers'}`;
  const after = `${seconds.toFixed(2)} s after the last answer`;
  if (missing.length === 0) return [`Stored: all of ${sample}, ${after}`];
  return [`Stored: ${missing.length} of ${sample} were not, ${after}, such as ${missing[0]}`];
}

const NOTHING_YET = { perSecond: 0, latency: '-', statuses: '-' };

function toReport({ acceptedPerSecond, p50Ms, p99Ms, statuses }: Progress) {
  const latency = `${p50Ms.toFixed(1)}/${p99Ms.toFixed(1)}`;
  return { perSecond: Math.round(acceptedPerSecond), latency, statuses: toCounts(statuses) };
}

const toMs = (value: number): string => `${value.toFixed(1)} ms`;

const toCounts = (statuses: Record<string, number>): string =>
  Object.entries(statuses)
    .map(([status, count]) => `${count} × ${status}`)
    .join(', ');

function parseUpTo(most: number): (text: string) => number {
  return (text) => {
    const count = parsePositive(text);
    if (count > most) throw new InvalidArgumentError(`It must be at most ${most}.`);
    return count;
  };
}
