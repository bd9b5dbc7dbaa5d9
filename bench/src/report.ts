import { median, toTable, toWhole } from '@opm/testkit';

/** What one measure found. */
export type Report = {
  /** Of its section in the README. */
  name: string;
  /** Markdown. */
  tables: string;
  verdicts: Verdict[];
};

/** What is asked for, and what was found; undefined where it could not be measured. */
export type Verdict = {
  measure: string;
  expected: { atLeast: number } | { atMost: number };
  measured: number | undefined;
  /** Of each round, where the measured figure is their median. */
  ratios?: number[];
};

/** One contender's runs of one thing. */
export type Result = { contender: string; what: string; perSecond: number[] };

/** Each round's own ratio: what disturbs a round disturbs both of its sides. */
export const toRatios = (values: number[], bases: number[]): number[] =>
  values.map((value, round) => value / (bases[round] ?? Number.NaN));

export const medianRatio = (values: number[], bases: number[]): number => median(toRatios(values, bases));

/** The lower and the upper one, with what lies between two numbers interpolated. */
function toQuartiles(numbers: number[]): number[] {
  const sorted = numbers.toSorted((a, b) => a - b);
  return [0.25, 0.75].map((part) => {
    const place = (sorted.length - 1) * part;
    const [below = Number.NaN, above = below] = sorted.slice(Math.floor(place), Math.floor(place) + 2);
    return below + (above - below) * (place % 1);
  });
}

/** Of each figure by itself. */
export function mediansOf<Figure extends string>(runs: Record<Figure, number>[]): Record<Figure, number> {
  const figures = Object.keys(runs[0] ?? {}) as Figure[];
  const medians = figures.map((figure) => [figure, median(runs.map((run) => run[figure]))]);
  return Object.fromEntries(medians) as Record<Figure, number>;
}

/** The one that is compared with the others, whose ratio to each stands in the last column. */
export function toRateTable(results: Result[], compared: string, unit: string): string {
  return toTableOf(results, unit, `${compared} ÷ it`, ({ what, perSecond }) =>
    medianRatio(runsOf(results, compared, what), perSecond),
  );
}

/** The other way round: the ratio of each to the one that they are all compared with. */
export function toRatioTable(results: Result[], base: string, unit: string): string {
  return toTableOf(results, unit, `÷ ${base}`, ({ what, perSecond }) =>
    medianRatio(perSecond, runsOf(results, base, what)),
  );
}

function toTableOf(results: Result[], unit: string, ratio: string, toRatio: (result: Result) => number): string {
  const table = toTable(
    ['', 'contender', `#${unit}`, '#range', `#${ratio}`],
    results.map((result) => [
      result.what,
      result.contender,
      toWhole(median(result.perSecond)),
      `${toWhole(Math.min(...result.perSecond))} to ${toWhole(Math.max(...result.perSecond))}`,
      toRatio(result).toFixed(2),
    ]),
  );
  return withRounds(table, results[0]?.perSecond.length ?? 0);
}

/** What the figures of a table are. */
export function withRounds(table: string, rounds: number): string {
  return `${table}\n\n${rounds === 1 ? 'One round.' : `Medians of ${rounds} rounds.`}`;
}

/** Where the runs are kept. @throws Error where there is no such result */
export function runsOf(results: Result[], contender: string, what: string): number[] {
  const result = results.find((it) => it.contender === contender && it.what === what);
  if (!result) throw new Error(`there is no result of ${contender}, ${what}`);
  return result.perSecond;
}

export function toVerdictTable(verdicts: Verdict[]): string {
  return toTable(
    ['measure', '#expected', '#measured', 'holds'],
    verdicts.map(({ measure, expected, measured, ratios = [] }) => [
      measure,
      'atLeast' in expected ? `≥ ${expected.atLeast}` : `≤ ${expected.atMost}`,
      `${measured?.toFixed(2) ?? '–'}${toRange(ratios)}`,
      measured === undefined ? 'not measured' : holds(expected, measured) ? 'yes' : 'no',
    ]),
  );
}

/** The quartiles of more than two rounds. */
const toRange = (ratios: number[]) =>
  ratios.length > 2
    ? ` (${toQuartiles(ratios)
        .map((ratio) => ratio.toFixed(2))
        .join(' to ')})`
    : '';

const holds = (expected: Verdict['expected'], measured: number) =>
  'atLeast' in expected ? measured >= expected.atLeast : measured <= expected.atMost;
