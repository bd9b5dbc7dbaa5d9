import { median, toTable, toWhole } from '@opm/testkit';

/** The result of one measurement. */
export type Report = {
  /** Name of its section in bench/README.md or bench/RESULTS.md. */
  name: string;
  /** Markdown. */
  tables: string;
  verdicts: Verdict[];
};

/** A requirement and the measured figure; undefined if it could not be measured. */
export type Verdict = {
  measure: string;
  expected: { atLeast: number } | { atMost: number };
  measured: number | undefined;
  /** The ratio of each round, if the measured figure is their median. */
  ratios?: number[];
};

/** The runs of one contender: its rate per round. */
export type Result = { contender: string; what: string; perSecond: number[] };

/** The ratio per round: what disturbs a round disturbs both of its sides. */
export const toRatios = (values: number[], bases: number[]): number[] =>
  values.map((value, round) => value / (bases[round] ?? Number.NaN));

export const medianRatio = (values: number[], bases: number[]): number => median(toRatios(values, bases));

/** The lower and the upper quartile, with linear interpolation. */
function toQuartiles(numbers: number[]): number[] {
  const sorted = numbers.toSorted((a, b) => a - b);
  return [0.25, 0.75].map((part) => {
    const place = (sorted.length - 1) * part;
    const [below = Number.NaN, above = below] = sorted.slice(Math.floor(place), Math.floor(place) + 2);
    return below + (above - below) * (place % 1);
  });
}

/** The median of each figure. */
export function mediansOf<Figure extends string>(runs: Record<Figure, number>[]): Record<Figure, number> {
  const figures = Object.keys(runs[0] ?? {}) as Figure[];
  const medians = figures.map((figure) => [figure, median(runs.map((run) => run[figure]))]);
  return Object.fromEntries(medians) as Record<Figure, number>;
}

/** A table of rates whose last column is the rate of `compared` divided by that of the row. */
export function toRateTable(results: Result[], compared: string, unit: string): string {
  return toTableOf(results, unit, `${compared} ÷ it`, ({ what, perSecond }) =>
    medianRatio(runsOf(results, compared, what), perSecond),
  );
}

/** A table of rates whose last column is the rate of the row divided by that of `base`. */
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

/** Adds a line that says how many rounds the figures are medians of. */
export function withRounds(table: string, rounds: number): string {
  return `${table}\n\n${rounds === 1 ? 'One round.' : `Medians of ${rounds} rounds.`}`;
}

/**
 * The rates of the contender's runs; callers add to this array.
 * @throws Error if there is no such result
 */
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

/** The quartiles as text, for more than two rounds. */
const toRange = (ratios: number[]) =>
  ratios.length > 2
    ? ` (${toQuartiles(ratios)
        .map((ratio) => ratio.toFixed(2))
        .join(' to ')})`
    : '';

const holds = (expected: Verdict['expected'], measured: number) =>
  'atLeast' in expected ? measured >= expected.atLeast : measured <= expected.atMost;
