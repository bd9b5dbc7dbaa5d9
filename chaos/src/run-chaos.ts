import { setTimeout as delay } from 'node:timers/promises';
import { describeMachine } from '@opm/testkit';
import type { Finding, StackRule } from './check/check-customer.js';
import { checkDrained } from './check/check-fault-free.js';
import {
  addEvidence,
  checkReceipts,
  checkRows,
  type Evidence,
  type Rows,
  readRows,
  writeEvidence,
} from './check/check-rows.js';
import { injectFaults, type Round } from './faults/inject-faults.js';
import { EMPTIES_STORE } from './faults/redis-faults.js';
import { sendRemaining, startClients } from './load/clients.js';
import { Ledger, type SentEntry } from './load/ledger.js';
import { createRandom, type Limit, withTimeout } from './random.js';
import { type QueueStore, type Stack, startStack } from './stack/stack.js';
import type { AppVictim } from './stack/victim.js';

export type ChaosOptions = {
  faults: number;
  /** Entries to acknowledge before the run ends. */
  entries: number;
  /** Entries per second while there are faults. */
  rate: number;
  seed: number;
  /** Number of clients that send idempotency keys. */
  keyed: number;
  queue: QueueStore;
  /** Settings of the ingresses and workers that differ from those of `stack.ts`. */
  appEnv?: NodeJS.ProcessEnv;
  /** How long the stack may take to recover from a fault, in ms; three minutes by default. */
  maxRecoveryMs?: number;
  /** An existing, empty directory for the data, the logs and the evidence. */
  directory: string;
  /** Called at each step, with the progress. */
  onProgress: (progress: Progress) => void;
  /** Ends the load early; everything sent until then is checked. */
  signal: AbortSignal;
  /** Also ends waiting; everything sent until then is kept. */
  giveUp: AbortSignal;
};

export type Progress = { step: string; faults: number; acknowledged: number; findings: number };

export type ChaosResult = {
  machine: string;
  rounds: Round[];
  evidence: Evidence;
  findings: Finding[];
  memory: Memory;
  seconds: number;
  /** Entries sent per second during the faults, on average. */
  rate: number;
  acknowledged: number;
  /** Receipts that were compared with the API and the rows. */
  receipts: number;
};

/** The most memory that any process of the kind had, in bytes. */
type Memory = { ingress: number; worker: number };

/** Most memory that one process may have in a run with a million entries, in bytes. */
const MAX_MEMORY = 512 * 1024 * 1024;
const MAX_RECOVERY_MS = 180_000;
/** Time limit of each step after the load. */
const MAX_STEP_MS = 45 * 60_000;

/**
 * Starts a stack, loads it, injects faults, and compares the rows with what was acknowledged. The same seed draws the
 * same faults and entries; their timing differs. Every failure after the start is a finding, and the evidence is kept.
 * @throws Error if the stack does not start
 */
export async function runChaos(options: ChaosOptions): Promise<ChaosResult> {
  const { faults, entries, rate, seed, keyed, queue, directory, onProgress, signal, giveUp } = options;
  const { maxRecoveryMs = MAX_RECOVERY_MS, appEnv = {} } = options;
  const findings: Finding[] = [];
  const onFound = (finding: Finding) => void findings.push(finding);
  const report = (rule: StackRule) => (what: string) => onFound({ rule, at: performance.now(), what });
  const ledger = new Ledger();
  // Any time: a replica may lack the newest keys of a lost master, although a worker has persisted their entries.
  if (queue === 'cluster') ledger.losses = Number.NaN;
  const { customers, counts } = ledger;
  const rounds: Round[] = [];
  const rows: Rows = new Map();
  const tellProgress = (step: string) => {
    const done = rounds.flatMap((round) => (round.recoveredAt ? round.faults : [])).length;
    onProgress({ step, faults: done, acknowledged: counts.acknowledged, findings: findings.length });
  };
  /** Runs one step. A failure becomes a finding, and the run continues. */
  async function attempt(
    what: string,
    work: () => Promise<unknown>,
    { rule = 'recovery', ...limit }: Limit & { rule?: StackRule } = {},
  ): Promise<void> {
    tellProgress(what);
    await withTimeout(work(), limit).catch((error: Error) => report(rule)(`${what}: ${error.message}`));
  }

  tellProgress('starting');
  const stack = await startStack({ directory, queue, appEnv, onBadExit: report('process') });
  const since = performance.now();
  const watch = watchMemory(stack);
  const { partners, urls } = stack;
  const random = createRandom(seed, 1);
  const clients = startClients({
    urls,
    apiKeys: partners.map(({ apiKey }) => apiKey),
    ledger,
    random,
    rate,
    keyed,
    onUnexpected: report('answer'),
  });
  const result = { machine: '', rate: 0, receipts: 0 };

  async function load(): Promise<void> {
    result.machine = await describeMachine(stack.queue);
    await injectFaults(stack, {
      faults,
      random: createRandom(seed, 0),
      maxRecoveryMs,
      onStart(round) {
        if (round.faults.includes(EMPTIES_STORE)) ledger.losses++;
        rounds.push(round);
        tellProgress(round.faults.join(', and '));
      },
      async onEnd(round) {
        if (round.faults.includes(EMPTIES_STORE)) ledger.losses++;
        await addEvidence(directory, 'faults', round);
        result.rate = (counts.acknowledged + counts.refused + counts.unknown) / secondsSince(since);
      },
      signal,
    });
    await sendRemaining({
      clients,
      counts,
      entries,
      onWait: () => tellProgress('sending the remaining entries'),
      signal,
    });
  }
  async function compareRows(): Promise<void> {
    const projectIds = partners.map(({ projectId }) => projectId);
    for (const [customerId, row] of await readRows(stack.postgres.url, projectIds)) rows.set(customerId, row);
    await writeEvidence(directory, 'rows', rows);
    if (giveUp.aborted) return; // Many entries may still be in flight.
    for (const finding of checkRows(customers, rows)) onFound(finding);
  }
  async function askReceipts(): Promise<void> {
    if (giveUp.aborted) return;
    const asked = await checkReceipts({ customers, rows }, stack);
    result.receipts = asked.receipts;
    for (const finding of asked.findings) onFound(finding);
  }
  const last = { maxMs: MAX_STEP_MS };
  await attempt('load', load, { giveUp });
  await attempt('waiting for the last answers', clients.stop, last);
  await attempt('writing the ledger', () => writeEvidence(directory, 'ledger', allOf(customers)));
  await attempt('repairing the remaining faults', stack.repair, last);
  const faultFreeSince = rounds.length > 0 ? rounds.at(-1)?.recoveredAt : since;
  await attempt(
    'waiting for an empty queue',
    () => checkDrained(stack, { customers, faultFreeSince, onStep: tellProgress, onFound }),
    { rule: 'left behind', giveUp, ...last },
  );
  await attempt('comparing the rows', compareRows, last);
  await attempt('asking what became of the entries', askReceipts, { giveUp, ...last });
  await attempt('stopping', () => Promise.all([watch.stop(), stack.stop()]), last);

  for (const [kind, bytes] of Object.entries(watch.memory)) {
    if (bytes === 0) report('memory')(`no ${kind} reported its memory`);
    if (bytes > MAX_MEMORY) report('memory')(`${kind} used ${Math.round(bytes / 2 ** 20)} MiB`);
  }
  await attempt('writing the findings', () => writeEvidence(directory, 'findings', findings));
  const evidence = { customers, rows };
  const { acknowledged } = counts;
  return { ...result, rounds, evidence, findings, memory: watch.memory, seconds: secondsSince(since), acknowledged };
}

const secondsSince = (since: number) => (performance.now() - since) / 1_000;

function* allOf(customers: Map<string, SentEntry[]>): Generator<SentEntry> {
  for (const all of customers.values()) yield* all;
}

const MEMORY_INTERVAL_MS = 1_000;

/** Reads the memory of every process once a second, or as often as the process answers. */
function watchMemory({ ingresses, workers }: Stack): { memory: Memory; stop(): Promise<void> } {
  const memory: Memory = { ingress: 0, worker: 0 };
  const end = new AbortController();
  async function watch(kind: keyof Memory, app: AppVictim): Promise<void> {
    while (!end.signal.aborted) {
      memory[kind] = Math.max(memory[kind], await app.readMetric('process_resident_memory_bytes'));
      await delay(MEMORY_INTERVAL_MS, undefined, { signal: end.signal }).catch(() => {});
    }
  }
  const watching = Promise.all([
    ...ingresses.map((app) => watch('ingress', app)),
    ...workers.map((app) => watch('worker', app)),
  ]);
  return {
    memory,
    async stop() {
      end.abort();
      await watching;
    },
  };
}
