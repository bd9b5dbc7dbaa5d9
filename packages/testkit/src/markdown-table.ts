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
