import { describeMachine } from '@opm/testkit';
import { bounded, type Limit } from './bounded.js';
import { checkRest } from './check/check-rest.js';
import { checkRows, type Rows, readRows } from './check/check-rows.js';
import type { Finding, StackRule } from './check/finding.js';
import { addEvidence, type Evidence, writeEvidence } from './evidence.js';
import { doFaults, type Round } from './faults/do-faults.js';
import { startClients } from './load/clients.js';
import { Ledger, type Sent } from './load/ledger.js';
import { sendRest } from './load/send-rest.js';
import { type Memory, watchMemory } from './memory-watch.js';
import { createRandom } from './random.js';
import { type QueueStore, startStack } from './stack/stack.js';

export type ChaosOptions = {
  faults: number;
  /** To be acknowledged before it ends. */
  entries: number;
  /** Entries per second while there are faults. */
  rate: number;
  seed: number;
  /** Of the clients, how many send with idempotency keys. */
  keyed: number;
  queue: QueueStore;
  /** How long the stack may take to come back after a fault; three minutes unless given. */
  maxRecoveryMs?: number;
  /** Is there and empty; keeps the data, the logs and the evidence. */
  directory: string;
  /** Hears what begins, and how far it is. */
  onProgress: (progress: Progress) => void;
  /** Ends the load early; what was sent until then is checked. */
  signal: AbortSignal;
  /** Ends the waiting, too; what was sent until then is kept. */
  giveUp: AbortSignal;
};

export type Progress = { doing: string; faults: number; acknowledged: number; findings: number };

export type ChaosResult = {
  machine: string;
  rounds: Round[];
  evidence: Evidence;
  findings: Finding[];
  memory: Memory;
  seconds: number;
  /** Entries that were sent in a second, on average, while there were faults. */
  rate: number;
  acknowledged: number;
};

/** Each app, with what a million entries leave on the way. */
const MAX_MEMORY = 512 * 1024 * 1024;
const MAX_RECOVERY_MS = 180_000;
/** For whatever comes after the load. */
const MAX_STEP_MS = 45 * 60_000;

/**
 * Loads a stack of its own, does faults to it, and compares at last what is stored with what was acknowledged. The same
 * seed draws the same faults and the same entries; how they meet is a matter of time. Whatever fails once the stack is
 * there is a finding, and the evidence is kept. @throws Error where the stack does not start
 */
export async function runChaos(options: ChaosOptions): Promise<ChaosResult> {
  const { faults, entries, rate, seed, keyed, queue, directory, onProgress, signal, giveUp } = options;
  const { maxRecoveryMs = MAX_RECOVERY_MS } = options;
  const findings: Finding[] = [];
  const onFound = (finding: Finding) => void findings.push(finding);
  const report = (rule: StackRule) => (what: string) => onFound({ rule, at: performance.now(), what });
  const ledger = new Ledger();
  const { customers, counts } = ledger;
  const rounds: Round[] = [];
  const rows: Rows = new Map();
  const tell = (doing: string) => {
    const done = rounds.flatMap((round) => (round.recoveredAt ? round.faults : [])).length;
    onProgress({ doing, faults: done, acknowledged: counts.acknowledged, findings: findings.length });
  };
  /** Whatever it comes to, the next one follows. */
  async function attempt(
    what: string,
    work: () => Promise<unknown>,
    { rule = 'recovery', ...limit }: Limit & { rule?: StackRule } = {},
  ): Promise<void> {
    tell(what);
    await bounded(work(), limit).catch((error: Error) => report(rule)(`${what}: ${error.message}`));
  }

  tell('starting');
  const stack = await startStack({ directory, queue, onBadEnd: report('process') });
  const since = performance.now();
  const watch = watchMemory(stack);
  const { partners } = stack;
  const { urls } = stack;
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
  const result = { machine: '', rate: 0 };

  async function load(): Promise<void> {
    result.machine = await describeMachine(stack.queue);
    await doFaults(stack, {
      faults,
      random: createRandom(seed, 0),
      maxRecoveryMs,
      onStart(round) {
        rounds.push(round);
        tell(round.faults.join(', and '));
      },
      async onEnd(round) {
        await addEvidence(directory, 'faults', round);
        result.rate = (counts.acknowledged + counts.refused + counts.unknown) / secondsSince(since);
      },
      signal,
    });
    await sendRest({ clients, counts, entries, onWait: () => tell('sending the rest'), signal });
  }
  async function judgeRows(): Promise<void> {
    const projectIds = partners.map(({ projectId }) => projectId);
    for (const [customerId, row] of await readRows(stack.postgres.url, projectIds)) rows.set(customerId, row);
    await writeEvidence(directory, 'rows', rows);
    if (giveUp.aborted) return; // much of it may still be on its way
    for (const finding of checkRows(customers, rows)) onFound(finding);
  }
  const last = { maxMs: MAX_STEP_MS };
  await attempt('load', load, { giveUp });
  await attempt('waiting for the last answers', clients.stop, last);
  await attempt('keeping the ledger', () => writeEvidence(directory, 'ledger', allOf(customers)));
  await attempt('mending what is left', stack.mend, last);
  const quietSince = rounds.length > 0 ? rounds.at(-1)?.recoveredAt : since;
  await attempt(
    'waiting for an empty queue',
    () => checkRest(stack, { customers, quietSince, onDoing: tell, onFound }),
    { rule: 'left behind', giveUp, ...last },
  );
  await attempt('comparing the rows', judgeRows, last);
  await attempt('stopping', () => Promise.all([watch.stop(), stack.stop()]), last);

  for (const [kind, bytes] of Object.entries(watch.memory)) {
    if (bytes === 0) report('memory')(`no ${kind} ever said how much it had`);
    if (bytes > MAX_MEMORY) report('memory')(`${kind} had ${Math.round(bytes / 2 ** 20)} MiB`);
  }
  await attempt('keeping the findings', () => writeEvidence(directory, 'findings', findings));
  const evidence = { customers, rows };
  const { acknowledged } = counts;
  return { ...result, rounds, evidence, findings, memory: watch.memory, seconds: secondsSince(since), acknowledged };
}

const secondsSince = (since: number) => (performance.now() - since) / 1_000;

function* allOf(customers: Map<string, Sent[]>): Generator<Sent> {
  for (const all of customers.values()) yield* all;
}
