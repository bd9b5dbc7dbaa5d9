import { createInterface } from 'node:readline/promises';
import cliProgress, { type GenericFormatter } from 'cli-progress';
import { UserError } from './user-error.js';

export type PrintOptions = { json?: true };

/** Prints `data` as JSON if --json is given, otherwise `lines`. */
export function print({ json }: PrintOptions, data: unknown, lines: string[]): void {
  console.log(json ? toJson(data) : lines.map(escapeControls).join('\n'));
}

/** The option of the commands that ask with {@link confirm}. */
export const YES = ['--yes', 'do not ask; without a terminal, it never asks'] as const;

/**
 * Asks before something is destroyed. With --yes, or if a script runs the command, it does not ask.
 * @throws UserError unless the answer is `yes`
 */
export async function confirm(what: string, { yes }: { yes?: true }): Promise<void> {
  if (yes || !process.stdin.isTTY || !process.stderr.isTTY) return;
  const dialogue = createInterface({ input: process.stdin, output: process.stderr });
  const question = `${escapeControls(what)} This cannot be undone. Type yes to go on: `;
  // Ctrl-C and Ctrl-D end the dialogue.
  const answer = await dialogue
    .question(question)
    .catch(() => '')
    .finally(() => dialogue.close());
  if (answer.trim() !== 'yes') throw new UserError('nothing was changed');
}

/** Characters that a terminal interprets: control characters, bidirectional controls and line separators. */
const CONTROLS = /[\p{Cc}\p{Bidi_Control}\p{Zl}\p{Zp}]/gu;

/** Escapes the characters that a terminal interprets. Data from partners may contain any of them. */
export function escapeControls(text: string): string {
  return text.replace(CONTROLS, (control) => {
    const code = control.charCodeAt(0).toString(16);
    return code.length > 2 ? `\\u${code.padStart(4, '0')}` : `\\x${code.padStart(2, '0')}`;
  });
}

/** Like {@link escapeControls}, but keeps line feeds. */
export const escapeLines = (text: string): string => text.split('\n').map(escapeControls).join('\n');

/** Serializes to JSON in which the characters that a terminal interprets are escaped. */
export function toJson(data: unknown): string {
  return JSON.stringify(data).replace(CONTROLS, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

/** Formats rows as aligned columns with a header. Null and undefined print as a dash. */
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

export type Bar = {
  start(total: number, values?: object): void;
  update(value: number, values?: object): void;
  increment(by: number, values?: object): void;
  stop(): void;
};

/** Progress line of each command. Each fits into 80 columns. */
const TEXTS = {
  import: '[{bar}] {percentage} %, {imported} imported, {rejected} rejected{waiting}{left}',
  export: '{value} customers',
  replay: '[{bar}] {percentage} %, {value} of {total}{left}',
  burst: '[{bar}] {percentage} %, {perSecond}/s, p50/p99 {latency} ms, {statuses}',
};

const LINE_INTERVAL_MS = 5_000;

/** A progress bar on stderr. If stderr is not a terminal, prints a line every 5 s, and none for a shorter command. */
export function createBar(
  command: keyof typeof TEXTS,
  { stream = process.stderr as NodeJS.WritableStream & { isTTY?: boolean }, lineIntervalMs = LINE_INTERVAL_MS } = {},
): Bar {
  const isTerminal = stream.isTTY === true;
  const bar = new cliProgress.SingleBar({
    format: toFormat(TEXTS[command]),
    stream,
    barsize: 12,
    etaBuffer: 50,
    noTTYOutput: true,
    notTTYSchedule: lineIntervalMs,
    clearOnComplete: !isTerminal, // without a terminal, the bar would end with an empty line
  });
  let latest: [value: number, values?: object] = [0];
  let timer: NodeJS.Timeout | undefined;
  function update(value: number, values?: object): void {
    latest = [value, values];
    bar.update(value, values);
  }
  return {
    start(total, values) {
      latest = [0, values];
      const start = () => bar.start(total, ...latest);
      if (isTerminal) start();
      else timer = setTimeout(start, lineIntervalMs);
    },
    update,
    increment: (by, values) => update(latest[0] + by, values),
    stop() {
      clearTimeout(timer);
      bar.stop();
    },
  };
}

/** Adds the remaining time, unless it is unknown or the command waits. */
function toFormat(text: string): GenericFormatter {
  return (options, params, payload) => {
    const showsEta = !payload.waiting && params.progress < 1 && Number.isFinite(params.eta) && params.eta > 0;
    const format = text.replace('{left}', showsEta ? ', {eta_formatted} left' : '');
    return cliProgress.Format.Formatter({ ...options, format }, params, payload);
  };
}
