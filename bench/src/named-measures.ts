import { measureDrain } from './drain/drain.js';
import { measureAcks } from './measures/acks.js';
import { measureAppendfsync } from './measures/appendfsync.js';
import { measureBatches } from './measures/batches.js';
import { measureChunks } from './measures/chunks.js';
import { measureCluster } from './measures/cluster.js';
import { measureFairness } from './measures/fairness.js';
import { measureHandOut } from './measures/hand-out.js';
import { measureHostile } from './measures/hostile.js';
import { measureJobs } from './measures/jobs.js';
import { measureLatency } from './measures/latency.js';
import { measureMemory } from './measures/memory.js';
import { measurePartners } from './measures/partners.js';
import { measureProcesses } from './measures/processes.js';
import { measureRedisBytes } from './measures/redis-bytes.js';
import { measureStored } from './measures/stored.js';
import { measureSustained } from './measures/sustained.js';
import { measureTrouble } from './measures/trouble.js';
import type { Report } from './report.js';
import type { Measure } from './run-measures.js';
import type { Servers } from './servers.js';

/** A subcommand. */
export type NamedMeasure = {
  name: string;
  description: string;
  /** With the values that they have unless others are given. */
  settings: Record<string, Setting>;
  /** What there is to run with these values. */
  withValues(values?: Record<string, number>): Measure[];
};

type Setting = [value: number, help: string];

const SECONDS: Setting = [5, 'of each load'];
const ROUNDS: Setting = [3, 'how often everything is measured; medians are reported'];
const KNOWN: Setting = [10_000, 'customers that updates are about'];
const ENTRIES: Setting = [300_000, 'entries in the backlog'];

export const NAMED_MEASURES: NamedMeasure[] = [
  // First, because a Redis that has been full gives its memory back late.
  define({
    name: 'redis',
    description: 'What a waiting entry takes of Redis, and what it costs to have Redis write it to disk at once.',
    settings: { entries: [100_000, 'entries that wait'], seconds: SECONDS, rounds: ROUNDS },
    measures: [measureRedisBytes, measureAppendfsync],
  }),
  define({
    name: 'acks',
    description: 'How many entries are acknowledged per second: new customers, and updates of known ones.',
    settings: { seconds: SECONDS, rounds: ROUNDS, known: KNOWN },
    measures: [measureAcks],
  }),
  define({
    name: 'partners',
    description: 'Whether many partners are as fast as one, on both queue stores.',
    settings: {
      partners: [1_000, 'partners that send at the same time'],
      seconds: SECONDS,
      rounds: ROUNDS,
    },
    measures: [measurePartners],
  }),
  define({
    name: 'trouble',
    description: 'What one partner in trouble leaves of the speed of all others.',
    settings: { entries: [1_000_000, 'entries in the backlog'], rounds: ROUNDS },
    measures: [measureTrouble],
  }),
  define({
    name: 'jobs',
    description: 'Whether the queue in PostgreSQL stays as fast and as small, however many jobs go through it.',
    settings: { jobs: [1_000_000, 'jobs, of an entry each'] },
    measures: [measureJobs],
  }),
  define({
    name: 'batches',
    description: 'How many entries per second are acknowledged when they come many at once.',
    settings: { seconds: SECONDS, rounds: ROUNDS },
    measures: [measureBatches],
  }),
  define({
    name: 'chunks',
    description: 'What an entry takes of the ingress, of Redis and of a worker, by how many of them share a chunk.',
    settings: { seconds: SECONDS, rounds: ROUNDS },
    measures: [measureChunks, measureHandOut],
  }),
  define({
    name: 'cluster',
    description:
      'How many entries are acknowledged per second on a Redis Cluster, with and without confirming replicas.',
    settings: { seconds: SECONDS, rounds: ROUNDS },
    measures: [measureCluster],
  }),
  define({
    name: 'latency',
    description: 'How long an acknowledgement takes at half of the highest load.',
    settings: { seconds: SECONDS, rounds: ROUNDS },
    measures: [measureLatency],
  }),
  define({
    name: 'sustained',
    description: 'How many entries per second are acknowledged and become rows meanwhile, with one worker.',
    settings: { seconds: [60, 'of load'], rounds: [1, 'how often everything is measured; medians are reported'] },
    measures: [measureSustained],
  }),
  define({
    name: 'processes',
    description: 'What 2 and 4 ingresses acknowledge, and 2 and 4 workers persist, next to one.',
    settings: { entries: ENTRIES, seconds: SECONDS, rounds: ROUNDS },
    measures: [measureProcesses],
  }),
  define({
    name: 'fairness',
    description: 'How long the entries of a project take while another one has very many waiting.',
    settings: { backlog: [2_000_000, 'entries of the other project'], samples: [200, 'entries that are timed'] },
    measures: [measureFairness],
  }),
  define({
    name: 'hostile',
    description: 'What a MiB that nobody should send takes of the ingress, beside a MiB of valid entries.',
    settings: { mib: [16, 'of each body'], rounds: ROUNDS },
    measures: [measureHostile],
  }),
  define({
    name: 'memory',
    description: 'Whether the ingress grows with the number of requests.',
    settings: { first: [100_000, 'requests before the first look'], last: [5_000_000, 'requests before the last'] },
    measures: [measureMemory],
  }),
  define({
    name: 'stored',
    description: 'Whether acknowledging and persisting slow down with millions of customers stored.',
    settings: {
      customers: [10_000_000, 'stored customers'],
      known: [10_000, 'stored customers in the other database'],
      entries: ENTRIES,
      seconds: SECONDS,
      rounds: ROUNDS,
    },
    measures: [measureStored],
  }),
  define({
    name: 'drain',
    description: 'How long one worker process takes to persist a backlog: new customers, and the same ones again.',
    settings: {
      entries: ENTRIES,
      textbookEntries: [30_000, 'entries for the textbook worker, which is slow'],
      rounds: ROUNDS,
    },
    measures: [measureDrain],
  }),
];

function define<Name extends string>(definition: {
  name: string;
  description: string;
  settings: Record<Name, Setting>;
  measures: ((servers: Servers, values: NoInfer<Record<Name, number>>) => Promise<Report>)[];
}): NamedMeasure {
  const { name, description, settings, measures } = definition;
  const defaults = Object.fromEntries(Object.entries<Setting>(settings).map(([key, [value]]) => [key, value]));
  return {
    name,
    description,
    settings,
    withValues: (values = {}) => {
      const all = { ...defaults, ...values } as Record<Name, number>;
      return measures.map((measure) => (servers) => measure(servers, all));
    },
  };
}
