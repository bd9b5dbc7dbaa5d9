import { type Logger, type LoggerOptions, pino } from 'pino';

export type { Logger };

/** JSON lines on stdout. An error is logged by its names, codes and stack frames; never by what a partner sent. */
export function createLogger({ name, level }: { name: string; level: string }): Logger {
  const options: LoggerOptions = {
    level,
    base: { name },
    formatters: { level: (label) => ({ level: label }) },
    timestamp: pino.stdTimeFunctions.isoTime,
    serializers: { err: (error) => toLoggable(error) },
  };
  // Pino's own destination tries for ever, at exit, to write to a reader that is gone; a process that has lost the
  // reader of its logs must still do its work and end when it is told to.
  process.stdout.on('error', () => {});
  return pino(options, { write: (line) => void process.stdout.write(line) });
}

type LoggedError = Error & { code?: unknown; sqlState?: unknown; severity?: unknown };

const HIDDEN = '(not shown, for it may quote a row)';
/** SQLSTATEs by which PostgreSQL speaks of itself. By others it, or a trigger that has chosen its own, may quote a row. */
const ABOUT_ITSELF = /^(0[8A]|2[568]|3[DF]|4[02]|5[3578]|XX)/;

/** An error's details may quote a row (PostgreSQL's DETAIL does, and so does a trigger), so only what cannot is taken along. */
function toLoggable(error: unknown, depth = 0, isAboutRow = false): unknown {
  if (!(error instanceof Error)) return { type: typeof error };
  const { name, message, code, sqlState, severity, stack, cause } = error as LoggedError;
  const state = sqlState ?? (severity === undefined ? undefined : code); // pg's own errors have it as their code
  const isHidden = isAboutRow || (state !== undefined && !ABOUT_ITSELF.test(String(state)));
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
