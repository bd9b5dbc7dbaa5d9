import {
  measureAcks,
  measureAppendfsync,
  measureBatches,
  measureCompression,
  measureLatency,
} from './measures/acks.js';
import { measureChunks, measureDequeue } from './measures/chunks.js';
import { measureDrain } from './measures/drain.js';
import { measureFairness } from './measures/fairness.js';
import { measureJobs, measureStored } from './measures/growth.js';
import { measureHostile } from './measures/hostile.js';
import { measureKeys } from './measures/keys.js';
import { measureMemory, measureRedisBytes } from './measures/memory.js';
import { measurePartners } from './measures/partners.js';
import { measureCluster, measureProcesses } from './measures/scaling.js';
import { measureSustained } from './measures/sustained.js';
import { measureTrouble } from './measures/trouble.js';
import type { Report } from './report.js';
import type { Servers } from './servers.js';

/** A measurement with its options applied. */
export type Measure = (servers: Servers) => Promise<Report>;

/** A subcommand. */
export type NamedMeasure = {
  name: string;
  description: string;
  /** Options with their default values. */
  settings: Record<string, Setting>;
  /** The measurements to run with these values. */
  withValues(values?: Record<string, number>): Measure[];
};

type Setting = [value: number, help: string];

const SECONDS: Setting = [5, 'seconds of each load'];
const ROUNDS: Setting = [3, 'number of rounds; the report shows medians'];
const KNOWN: Setting = [10_000, 'number of customers that updates are about'];
const ENTRIES: Setting = [300_000, 'number of entries in the backlog'];

export const NAMED_MEASURES: NamedMeasure[] = [
  // First, because a Redis that was full returns its memory late.
  define({
    name: 'redis',
    description: 'Memory of a waiting entry in Redis, and the cost of having Redis write it to disk at once.',
    settings: { entries: [100_000, 'number of waiting entries'], seconds: SECONDS, rounds: ROUNDS },
    measures: [measureRedisBytes, measureAppendfsync],
  }),
  define({
    name: 'acks',
    description: 'Entries acknowledged per second: new customers, and updates of known ones.',
    settings: { seconds: SECONDS, rounds: ROUNDS, known: KNOWN },
    measures: [measureAcks],
  }),
  define({
    name: 'partners',
    description: 'Whether many partners are as fast as one, on both queue stores.',
    settings: {
      partners: [1_000, 'number of partners that send at the same time'],
      seconds: SECONDS,
      rounds: ROUNDS,
    },
    measures: [measurePartners],
  }),
  define({
    name: 'keys',
    description: 'What an idempotency key on each request costs, on both queue stores: acknowledgements and memory.',
    settings: {
      partners: [1_000, 'number of partners that send at the same time, compared with one'],
      keys: [200_000, 'number of keys, and of entries in keyed batches, that the store has when its bytes are read'],
      seconds: [2, 'seconds of each load'],
      rounds: [9, 'number of rounds; the report shows medians'],
    },
    measures: [measureKeys],
  }),
  define({
    name: 'trouble',
    description: 'How one partner in trouble slows down all others.',
    settings: { entries: [1_000_000, 'number of entries in the backlog'], rounds: ROUNDS },
    measures: [measureTrouble],
  }),
  define({
    name: 'jobs',
    description: 'Whether the queue in PostgreSQL stays fast and small however many jobs go through it.',
    settings: { jobs: [1_000_000, 'number of jobs, with one entry each'] },
    measures: [measureJobs],
  }),
  define({
    name: 'batches',
    description: 'Entries acknowledged per second if they are sent in batches, and in compressed ones.',
    settings: { seconds: SECONDS, rounds: ROUNDS },
    measures: [measureBatches, measureCompression],
  }),
  define({
    name: 'chunks',
    description: 'CPU per entry in the ingress, Redis and the worker, by the size of chunks.',
    settings: { seconds: SECONDS, rounds: ROUNDS },
    measures: [measureChunks, measureDequeue],
  }),
  define({
    name: 'cluster',
    description: 'Entries acknowledged per second on a Redis Cluster, with and without confirming replicas.',
    settings: { seconds: SECONDS, rounds: ROUNDS },
    measures: [measureCluster],
  }),
  define({
    name: 'latency',
    description: 'Latency of an acknowledgement at half of the highest load.',
    settings: { seconds: SECONDS, rounds: ROUNDS },
    measures: [measureLatency],
  }),
  define({
    name: 'sustained',
    description: 'Entries per second that are acknowledged and become rows during the load, with one worker.',
    settings: { seconds: [60, 'seconds of load'], rounds: [1, 'number of rounds; the report shows medians'] },
    measures: [measureSustained],
  }),
  define({
    name: 'processes',
    description: 'Rates of 2 and 4 ingresses and of 2 and 4 workers, compared with one.',
    settings: { entries: ENTRIES, seconds: SECONDS, rounds: ROUNDS },
    measures: [measureProcesses],
  }),
  define({
    name: 'fairness',
    description: 'How long the entries of a project take while another project has a long backlog.',
    settings: {
      backlog: [2_000_000, 'number of entries of the other projects'],
      samples: [200, 'number of timed entries'],
    },
    measures: [measureFairness],
  }),
  define({
    name: 'hostile',
    description: 'CPU per MiB of hostile bodies in the ingress, compared with valid entries.',
    settings: { mib: [16, 'MiB of each kind of body'], rounds: ROUNDS },
    measures: [measureHostile],
  }),
  define({
    name: 'memory',
    description: 'Whether the memory of the ingress grows with the number of requests.',
    settings: {
      first: [100_000, 'requests before the first reading'],
      last: [5_000_000, 'requests before the last reading'],
    },
    measures: [measureMemory],
  }),
  define({
    name: 'stored',
    description: 'Whether acknowledging and persisting slow down with millions of customers stored.',
    settings: {
      customers: [10_000_000, 'number of stored customers'],
      known: [10_000, 'number of stored customers in the other database'],
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
      textbookEntries: [30_000, 'number of entries for the textbook worker, which is slow'],
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
