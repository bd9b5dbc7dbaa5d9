import { cpus } from 'node:os';

/** One contender's runs of one thing. */
export type Result = { contender: string; what: string; perSecond: number[] };

export function median(numbers: number[]): number {
  const sorted = numbers.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? (sorted[middle] ?? 0) : ((sorted[middle - 1] ?? 0) + (sorted[middle] ?? 0)) / 2;
}

/** A Markdown table of medians. Ratios are medians of each round's own ratio: what disturbs a round disturbs both of its sides. */
export function printReport(results: Result[], baseline: string, unit: string): void {
  const [cpu] = cpus();
  console.log(`\n${cpus().length} × ${cpu?.model.trim()}, Node.js ${process.version}, ${new Date().toISOString()}\n`);
  console.log(`| | contender | ${unit} | range | ${baseline} ÷ it |\n| --- | --- | ---: | ---: | ---: |`);
  for (const { contender, what, perSecond } of results) {
    const base = results.find((result) => result.contender === baseline && result.what === what)?.perSecond ?? [];
    const ratio = median(perSecond.map((value, round) => (base[round] ?? Number.NaN) / value));
    const range = `${format(Math.min(...perSecond))} to ${format(Math.max(...perSecond))}`;
    console.log(`| ${what} | ${contender} | ${format(median(perSecond))} | ${range} | ${ratio.toFixed(2)} |`);
  }
}

const format = (value: number) => Math.round(value).toLocaleString('en-US');
