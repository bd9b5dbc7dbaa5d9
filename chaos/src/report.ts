import { median, toTable, toWhole } from '@opm/testkit';
import { countUnknownFirsts } from './check/count-unknown-firsts.js';
import type { Finding } from './check/finding.js';
import type { Round } from './faults/do-faults.js';
import type { Sent } from './load/ledger.js';
import type { ChaosOptions, ChaosResult } from './run-chaos.js';

const MAX_SHOWN = 100;
const STORE: Record<ChaosOptions['queue'], string> = {
  redis: 'Redis',
  cluster: 'Redis Cluster',
  postgres: 'PostgreSQL',
};

/** What a run did and found, as Markdown. */
export function toReport(options: ChaosOptions, result: ChaosResult): string {
  const { seed, queue } = options;
  const { machine, rounds, findings, seconds, memory, acknowledged } = result;
  const sent = [...result.evidence.customers.values()].flat();
  const count = (predicate: (entry: Sent) => boolean) => toWhole(sent.filter(predicate).length);
  const toMiB = (bytes: number) => `${toWhole(bytes / 2 ** 20)} MiB`;
  const recovered = rounds.filter(isRecovered);
  const times = recovered.map(recoveryMsOf);
  const faults = recovered.flatMap((round) => round.faults).length;
  const isWhole = faults >= options.faults && acknowledged >= options.entries;
  const verdict = findings.length > 0 ? `${findings.length} findings` : 'no promise broken';
  const toPart = (done: number, asked: number) =>
    done < asked ? `${toWhole(done)} of ${toWhole(asked)}` : toWhole(done);
  return `## Queue on ${STORE[queue]}: ${verdict}${isWhole ? '' : ', but it ended early'}

${machine}. Seed ${seed}, ${toPart(faults, options.faults)} faults, ${toPart(acknowledged, options.entries)} entries acknowledged (erasures, too), ${toWhole(seconds)} s;
${toWhole(result.rate)} entries were sent in a second while there were faults.

${toTable(
  ['what was sent', '#entries'],
  [
    ['acknowledged: 201', count(({ status }) => status === 201)],
    ['acknowledged: 202', count(({ status, erases }) => status === 202 && !erases)],
    ['acknowledged: erasures', count(({ status, erases }) => status === 202 && erases)],
    ['refused: 503 that says so, and 404 for erasures', count(({ outcome }) => outcome === 'refused')],
    ['unknown: no answer, or a 503 that leaves it open', count(({ outcome }) => outcome === 'unknown')],
    [
      'of all these, sent more than once with an idempotency key and told the first answer again',
      count(({ isReplayed }) => isReplayed === true),
    ],
    [
      'of all these, sent more than once with an idempotency key and perhaps accepted each time',
      count(({ repeats }) => repeats !== undefined),
    ],
    ['customers', toWhole(result.evidence.customers.size)],
    [
      'first entries of new or erased customers that were a 202: whether they existed could not be known',
      toWhole([...result.evidence.customers.values()].reduce((sum, all) => sum + countUnknownFirsts(all), 0)),
    ],
  ],
)}

${toTable(
  ['what must not be', '#found'],
  COUNTED.map(([what, ...rules]) => [what, toWhole(findings.filter(({ rule }) => rules.includes(rule)).length)]),
)}
${findings.length === 0 ? '' : `\n${toLines(findings, rounds)}\n`}
Each row is what one fault, or two at the same time, came to: the time after it was mended until every process said that it
was ready, every ingress acknowledged an entry and these were rows. All: ${toSeconds(median(times))} s (median), ${toSeconds(Math.max(0, ...times))} s (at most).

${toTable(['fault', '#times', '#median s', '#at most s'], toRows(recovered))}

The slowest were:

${toSlowest(recovered)}

Memory at most: ingress ${toMiB(memory.ingress)}, worker ${toMiB(memory.worker)}.`;
}

const COUNTED: [what: string, ...rules: Finding['rule'][]][] = [
  ['rows that no order explains: entries that were lost, in whole or in part, or older ones that won', 'lost'],
  ['values that were never sent or were refused', 'wrong'],
  ['201 for a customer who existed, 404 for one who did', 'created twice', 'forgotten'],
  ['jobs, claims, counts or dead letters left behind', 'left behind'],
  ['processes that ended by themselves, or badly', 'process'],
  ['answers that no fault excuses', 'answer'],
  ['failures to come back', 'recovery'],
  ['too much memory', 'memory'],
];

type Recovered = Required<Round>;

const isRecovered = (round: Round): round is Recovered => round.recoveredAt !== undefined;
const recoveryMsOf = ({ mendedAt, recoveredAt }: Recovered) => recoveredAt - mendedAt;

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
    // One of several processes of a kind is like the others.
    const kind = faults.length > 1 ? 'two at the same time' : (faults[0] ?? '').replaceAll(/ \d+\b/g, '');
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
