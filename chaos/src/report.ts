import { median, toTable, toWhole } from '@opm/testkit';
import { SingleBar } from 'cli-progress';
import { type Finding, findUnknownFirsts } from './check/check-customer.js';
import type { Round } from './faults/inject-faults.js';
import type { SentEntry } from './load/ledger.js';
import type { ChaosOptions, ChaosResult, Progress } from './run-chaos.js';

const MAX_SHOWN = 100;
const STORE: Record<ChaosOptions['queue'], string> = {
  redis: 'Redis',
  cluster: 'Redis Cluster',
  postgres: 'PostgreSQL',
};

/** The report of a run, as Markdown. */
export function toReport(options: ChaosOptions, result: ChaosResult): string {
  const { seed, queue } = options;
  const { machine, rounds, findings, seconds, memory, acknowledged } = result;
  const sent = [...result.evidence.customers.values()].flat();
  const count = (predicate: (entry: SentEntry) => boolean) => toWhole(sent.filter(predicate).length);
  const unknownFirsts = [...result.evidence.customers.values()].flatMap(findUnknownFirsts);
  const toMiB = (bytes: number) => `${toWhole(bytes / 2 ** 20)} MiB`;
  const recovered = rounds.filter(isRecovered);
  const times = recovered.map(recoveryMsOf);
  const faults = recovered.flatMap((round) => round.faults).length;
  const isWhole = faults >= options.faults && acknowledged >= options.entries;
  const verdict = findings.length > 0 ? `${findings.length} findings` : 'no promise broken';
  const toPart = (done: number, asked: number) =>
    done < asked ? `${toWhole(done)} of ${toWhole(asked)}` : toWhole(done);
  return `## Queue on ${STORE[queue]}: ${verdict}${isWhole ? '' : ', but it ended early'}

${machine}. Seed ${seed}, ${toPart(faults, options.faults)} faults, ${toPart(acknowledged, options.entries)} entries acknowledged (including erasures), ${toWhole(seconds)} s;
${toWhole(result.rate)} entries sent per second during the faults.

${toTable(
  ['what was sent', '#entries'],
  [
    ['acknowledged: 201', count(({ status }) => status === 201)],
    ['acknowledged: 202', count(({ status, erases }) => status === 202 && !erases)],
    ['acknowledged: erasures', count(({ status, erases }) => status === 202 && erases)],
    ['refused: a 503 that says so, or a 404 for an erasure', count(({ outcome }) => outcome === 'refused')],
    ['unknown: no answer, or a 503 that leaves it open', count(({ outcome }) => outcome === 'unknown')],
    [
      'of these, sent more than once with an idempotency key and answered with the first answer',
      count(({ isReplayed }) => isReplayed === true),
    ],
    ['of these, sent again with their key because an answer was lost or open', count(({ open }) => open !== undefined)],
    [
      'of these, sent again after a newer entry about the customer was acknowledged',
      count(({ overtakenBy }) => overtakenBy !== undefined),
    ],
    ['of these, known to be accepted before the newer entry was sent', count(isKnownAndOvertaken)],
    [
      'sent again with their key and perhaps accepted each time, because the store was emptied in between',
      count(({ repeats }) => repeats !== undefined),
    ],
    [
      'acknowledged, and sent again with another status, because the verdict was not stored',
      count(({ otherStatus }) => otherStatus !== undefined),
    ],
    ['customers', toWhole(result.evidence.customers.size)],
    ['receipts compared with the API and the rows', toWhole(result.receipts)],
    [
      'first entries of new or erased customers answered 202, because the ingress could not find out whether they existed',
      toWhole(unknownFirsts.filter(({ open }) => !open).length),
    ],
    [
      'the same, because the answer 201 to an earlier attempt was lost',
      toWhole(unknownFirsts.filter(({ open }) => open).length),
    ],
  ],
)}

${toTable(
  ['broken promise', '#found'],
  COUNTED.map(([what, ...rules]) => [what, toWhole(findings.filter(({ rule }) => rules.includes(rule)).length)]),
)}
${findings.length === 0 ? '' : `\n${toLines(findings, rounds)}\n`}
Recovery by fault. A recovery lasts from the repair of the fault, or of two simultaneous ones, until every process is ready,
every ingress acknowledges an entry and these entries are rows. All: ${toSeconds(median(times))} s (median), ${toSeconds(Math.max(0, ...times))} s (maximum).

${toTable(['fault', '#times', '#median s', '#maximum s'], toRows(recovered))}

The slowest recoveries:

${toSlowest(recovered)}

Maximum memory: ingress ${toMiB(memory.ingress)}, worker ${toMiB(memory.worker)}.`;
}

const isKnownAndOvertaken = ({ overtakenBy, knownAt }: SentEntry) => overtakenBy !== undefined && knownAt !== undefined;

const COUNTED: [what: string, ...rules: Finding['rule'][]][] = [
  ['rows that no order explains: entries lost in whole or in part, or overwritten by older ones', 'lost'],
  ['values that were never sent, or whose entry was refused', 'wrong'],
  ['201 or 404 for a customer who existed', 'created twice', 'forgotten'],
  ['receipts that the API or the row contradicts', 'receipt'],
  ['jobs, claims, counts or dead letters left behind', 'left behind'],
  ['processes that exited by themselves or with an error', 'process'],
  ['answers that no fault excuses', 'answer'],
  ['failures to recover', 'recovery'],
  ['too much memory', 'memory'],
];

type Recovered = Required<Round>;

const isRecovered = (round: Round): round is Recovered => round.recoveredAt !== undefined;
const recoveryMsOf = ({ repairedAt, recoveredAt }: Recovered) => recoveredAt - repairedAt;

function toLines(findings: Finding[], rounds: Round[]): string {
  const shown = findings.slice(0, MAX_SHOWN).map(({ rule, at, customerId, what }) => {
    const { faults = [] } =
      rounds.find(({ startedAt, recoveredAt = Infinity }) => startedAt <= at && at <= recoveredAt) ?? {};
    const during = faults.length === 0 ? '' : ` (${faults.join(', and ')})`;
    return `- ${rule} at ${toSeconds(at)} s${during}: ${customerId === undefined ? '' : `${customerId}: `}${what}`;
  });
  if (findings.length > MAX_SHOWN) shown.push(`- and ${findings.length - MAX_SHOWN} more`);
  return shown.join('\n');
}

const toSeconds = (ms: number) => (ms / 1_000).toFixed(1);

function toRows(rounds: Recovered[]): string[][] {
  const byKind = new Map<string, number[]>();
  for (const round of rounds) {
    const { faults } = round;
    // Faults of several processes of the same kind share a row.
    const kind = faults.length > 1 ? 'two simultaneous faults' : (faults[0] ?? '').replaceAll(/ \d+\b/g, '');
    byKind.set(kind, [...(byKind.get(kind) ?? []), recoveryMsOf(round)]);
  }
  return [...byKind]
    .toSorted()
    .map(([kind, times]) => [kind, toWhole(times.length), toSeconds(median(times)), toSeconds(Math.max(...times))]);
}

function toSlowest(rounds: Recovered[]): string {
  const slowest = rounds.toSorted((a, b) => recoveryMsOf(b) - recoveryMsOf(a)).slice(0, 5);
  return slowest.map((round) => `- ${toSeconds(recoveryMsOf(round))} s: ${round.faults.join(', and ')}`).join('\n');
}

/** Shows the progress on stderr: a bar on a terminal, otherwise one line per fault and step. */
export function createProgress(faults: number): { show(progress: Progress): void; stop(): void } {
  if (!process.stderr.isTTY) {
    let last = '';
    return {
      show({ step, ...counts }) {
        if (step !== last) {
          const done = `${counts.faults}/${faults} faults, ${counts.acknowledged} acknowledged, ${counts.findings} findings`;
          console.error(`${new Date().toISOString()} ${step} (${done})`);
        }
        last = step;
      },
      stop() {},
    };
  }
  const bar = new SingleBar({
    format:
      '{bar} {value}/{total} faults | {acknowledged} acknowledged | {findings} findings | {duration_formatted} | {step}',
  });
  bar.start(faults, 0, { step: '', acknowledged: 0, findings: 0 });
  return { show: ({ faults: done, ...rest }) => bar.update(done, rest), stop: () => bar.stop() };
}
