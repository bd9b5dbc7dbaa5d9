import { type Logger, type LoggerOptions, pino } from 'pino';

export type { Logger };

/**
 * Creates a logger that writes JSON lines to stdout. It never logs data that a partner sent; see {@link toLoggable}.
 */
export function createLogger({ name, level }: { name: string; level: string }): Logger {
  const options: LoggerOptions = {
    level,
    base: { name },
    formatters: { level: (label) => ({ level: label }) },
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: { err: (error) => toLoggable(error) },
  };
  // If the reader of stdout is gone, Pino's own destination retries forever at exit. The process must continue to work
  // without a reader of its logs, and stop when told to.
  process.stdout.on('error', () => {});
  return pino(options, { write: (line) => void process.stdout.write(line) });
}

type LoggedError = Error & { code?: unknown; sqlState?: unknown; severity?: unknown };

const HIDDEN = '(hidden: the message may quote a row)';
/** SQLSTATEs about the state of PostgreSQL itself. With other ones, PostgreSQL or a trigger may quote a row. */
const SERVER_STATE = /^(0[8A]|2[568]|3[DF]|4[02]|5[3578]|XX)/;

/** Keeps only properties that cannot quote a row. PostgreSQL's DETAIL does, and so may the message of a trigger. */
function toLoggable(error: unknown, depth = 0, isAboutRow = false): unknown {
  if (!(error instanceof Error)) return { type: typeof error };
  const { name, message, code, sqlState, severity, stack, cause } = error as LoggedError;
  const state = sqlState ?? (severity === undefined ? undefined : code); // pg's own errors have the SQLSTATE in `code`
  const isHidden = isAboutRow || (state !== undefined && !SERVER_STATE.test(String(state)));
  return {
    type: name,
    message: isHidden ? HIDDEN : message,
    code,
    sqlState,
    stack: stack
      ?.split('\n')
      .filter((line) => /^\s+at /.test(line))
      .join('\n'),
    cause: cause !== undefined && depth < 3 ? toLoggable(cause, depth + 1, isHidden) : undefined,
  };
}

/** Errors are remembered up to this number. A message may name a project, of which thousands are active. */
const MAX_KNOWN = 10_000;

/**
 * Logs a repeated error once per interval; `leftOut` counts the repeats that it did not log. Use it for errors that
 * every connection and every attempt reports until they resolve themselves, such as a lost server. Errors are equal
 * if their messages differ only in a job's id. Beyond 10,000 different ones, it forgets those logged the longest ago.
 */
export function createThrottledWarning(
  logger: Pick<Logger, 'warn'>,
  message: string,
  { intervalMs = 60_000, now = () => performance.now() }: { intervalMs?: number; now?: () => number } = {},
): (error: Error) => void {
  const known = new Map<string, { loggedAt: number; leftOut: number }>();
  return (error) => {
    const kind = error.message.replace(/\bjob \S+/gi, 'job #');
    const last = known.get(kind);
    if (last && now() - last.loggedAt < intervalMs) {
      last.leftOut++;
      return;
    }
    logger.warn({ err: error, ...(last?.leftOut && { leftOut: last.leftOut }) }, message);
    known.delete(kind); // so that the map's first one was logged the longest ago
    const [oldest] = known.keys();
    if (oldest !== undefined && known.size >= MAX_KNOWN) known.delete(oldest);
    known.set(kind, { loggedAt: now(), leftOut: 0 });
  };
}
