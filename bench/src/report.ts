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
};

/** One contender's runs of one thing. */
export type Result = { contender: string; what: string; perSecond: number[] };

export function median(numbers: number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? (sorted[middle] ?? 0) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}

/** The median of each round's own ratio: what disturbs a round disturbs both of its sides. */
export function medianRatio(values: number[], bases: number[]): number {
  return median(values.map((value, round) => value / (bases[round] ?? Number.NaN)));
}

/** The one that is compared with the others, whose ratio to each stands in the last column. */
export function toRateTable(results: Result[], compared: string, unit: string): string {
  const table = toTable(
    ['', 'contender', `#${unit}`, '#range', `#${compared} ÷ it`],
    results.map(({ contender, what, perSecond }) => [
      what,
      contender,
      toWhole(median(perSecond)),
      `${toWhole(Math.min(...perSecond))} to ${toWhole(Math.max(...perSecond))}`,
      medianRatio(runsOf(results, compared, what), perSecond).toFixed(2),
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
    verdicts.map(({ measure, expected, measured }) => [
      measure,
      'atLeast' in expected ? `≥ ${expected.atLeast}` : `≤ ${expected.atMost}`,
      measured?.toFixed(2) ?? '–',
      measured === undefined ? 'not measured' : holds(expected, measured) ? 'yes' : 'no',
    ]),
  );
}

const holds = (expected: Verdict['expected'], measured: number) =>
  'atLeast' in expected ? measured >= expected.atLeast : measured <= expected.atMost;

/** A Markdown table that can be read as it is. Columns whose head begins with # hold numbers. */
export function toTable(heads: string[], rows: string[][]): string {
  const lines = [heads.map((head) => head.replace(/^#/, '')), ...rows];
  const widths = heads.map((_, column) => Math.max(3, ...lines.map((cells) => cells[column]?.length ?? 0)));
  const isNumber = heads.map((head) => head.startsWith('#'));
  const pad = (cell: string, column: number) =>
    isNumber[column] ? cell.padStart(widths[column] ?? 0) : cell.padEnd(widths[column] ?? 0);
  const rule = widths.map((width, column) => (isNumber[column] ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width)));
  const [head = [], ...body] = lines.map((cells) => cells.map(pad));
  return [head, rule, ...body].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

export const toWhole = (value: number) => Math.round(value).toLocaleString('en-US');
