import { Command, InvalidArgumentError, Option } from 'commander';
import ms from 'ms';
import { type BurstResult, burst, type Progress } from '../burst/burst.js';
import { type Address, findAddress, openTarget } from '../burst/target.js';
import { parseDuration, parsePositive } from '../parse.js';
import { createBar, type PrintOptions, print } from '../print.js';
import { STOPPED_EXIT_CODE, withInterrupt } from '../user-error.js';

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
/** More would exceed the ports of one client address, or the file descriptors of a process. */
const MAX_CONNECTIONS = 10_000;
/** Default number of customers with --updates. */
const UPDATED_CUSTOMERS = 1_000;

export function burstCommand(env: NodeJS.ProcessEnv): Command {
  return new Command('burst')
    .option('--url <url>', 'address of the API (default: OPM_URL, or that of the running stack)')
    .option(
      '--key <key>',
      'API key (default: OPM_KEY, or the demo key); prefer OPM_KEY, which other users of this machine cannot see',
    )
    .option('--entries <n>', 'number of entries to send', parsePositive, 10_000)
    .option('--rate <n>', 'entries per second (default: as fast as possible)', parsePositive)
    .option('--batch <n>', 'entries per request, 1 to 1000', parseUpTo(MAX_BATCH), 1)
    .option(
      '--connections <n>',
      'concurrent requests, 1 to 10000 (default: 50, or 4 if --batch is above 1)',
      parseUpTo(MAX_CONNECTIONS),
    )
    .option(
      '--customers <n>',
      'number of customers to spread the entries over (default: one per entry, or 1000 with --updates)',
      parsePositive,
    )
    .option('--updates', 'create the customers first, so that all measured entries are updates')
    .addOption(
      new Option('--wait <duration>', 'how long to wait for the entries to be stored; 0s skips the check')
        .argParser(parseDuration)
        .default(ms('60s'), '60s'),
    )
    .option('--json', 'print JSON')
    .description('Send entries of made-up customers and measure the answers. Ctrl-C stops cleanly.')
    .addHelpText('after', '\nExits with 1 if an entry is refused, not answered, or accepted but not stored in time.')
    .action(async (flags: BurstFlags) => {
      const result = await burstWithBar(await findAddress(flags, env), flags);
      print(flags, result, toLines(result));
      if (result.isStopped) process.exitCode = STOPPED_EXIT_CODE;
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
    const onProgress = (progress: Progress) => {
      bar.update(progress.sent, toReport(progress));
      if (progress.sent === entries) bar.stop(); // without a terminal it would repeat its last line
    };
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
    ...(maxMs > 0 ? [`Latency: p50 ${toMs(p50Ms)}, p99 ${toMs(p99Ms)}, max ${toMs(maxMs)}`] : []),
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
  return [
    `Not stored: ${missing.length} of ${sample}, ${after}, such as ${missing[0]}`,
    'See `opm status`: does a worker run?',
  ];
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
