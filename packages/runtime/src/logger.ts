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

type LoggedError = Error & { code?: unknown; sqlState?: unknown; kind?: unknown };

const HIDDEN = '(not shown, for it may quote a row)';

/** An error's details may quote a row (PostgreSQL's DETAIL does), so only what cannot is taken along. */
function toLoggable(error: unknown, depth = 0, isAboutRow = false): unknown {
  if (!(error instanceof Error)) return { type: typeof error };
  const { name, message, code, sqlState, kind, stack, cause } = error as LoggedError;
  // What PostgreSQL says of itself is needed; what it, or a trigger, says of a row is in the dead letter.
  const isHidden = isAboutRow || (sqlState !== undefined && (kind === 'refusal' || kind === 'unknown'));
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
