export type PrintOptions = { json?: true };

/** Data for programs on stdout where --json asks for it, else the lines for people. */
export function print({ json }: PrintOptions, data: unknown, lines: string[]): void {
  console.log(json ? toJson(data) : lines.map(escapeControls).join('\n'));
}

/** What a terminal obeys: control characters, those that turn the direction of text, and separators of lines. */
const CONTROLS = /[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]/gu;

/** What partners send may hold anything, and a terminal obeys what it is sent. */
export function escapeControls(text: string): string {
  return text.replace(CONTROLS, (control) => {
    const code = control.charCodeAt(0).toString(16);
    return code.length > 2 ? `\\u${code.padStart(4, '0')}` : `\\x${code.padStart(2, '0')}`;
  });
}

/** The same for text of several lines, which stay lines. */
export const escapeLines = (text: string): string => text.split('\n').map(escapeControls).join('\n');

/** JSON of the same value, without a character that a terminal obeys. */
export function toJson(data: unknown): string {
  return JSON.stringify(data).replace(CONTROLS, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Columns as wide as their widest cell; null and undefined are a dash. */
export function toTable(rows: Record<string, unknown>[]): string[] {
  const [first] = rows;
  if (!first) return ['(none)'];
  const names = Object.keys(first);
  const cells = [names, ...rows.map((row) => names.map((name) => toCell(row[name])))];
  const widths = names.map((_, column) => Math.max(...cells.map((row) => row[column]?.length ?? 0)));
  return cells.map((row) =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd(),
  );
}

function toCell(value: unknown): string {
  if (value === null || value === undefined) return '-';
  return escapeControls(value instanceof Date ? value.toISOString() : String(value));
}
