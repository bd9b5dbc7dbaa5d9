/** Kinds of errors, and the exit code of each. */
export const EXIT_CODES = { failed: 1, usage: 2, 'not-found': 3, unavailable: 4 } as const;

/** The exit code of a command that the user stopped, as shells report it for Ctrl-C. */
export const STOPPED_EXIT_CODE = 130;

/** Signals that ask a command to stop. */
export const STOP_SIGNALS = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

/** A problem that the user can fix. `opm` prints it as one line, without a stack trace. */
export class UserError extends Error {
  override readonly name = 'UserError';
  readonly kind: keyof typeof EXIT_CODES;

  constructor(message: string, kind: keyof typeof EXIT_CODES = 'failed') {
    super(message);
    this.kind = kind;
  }
}

/** Reads settings of the environment. @throws UserError for a wrong one */
export async function readSettings<T>(read: (env: typeof import('@opm/runtime/env')) => T): Promise<T> {
  const env = await import('@opm/runtime/env'); // lazily: --help needs none of it
  try {
    return read(env);
  } catch (error) {
    throw error instanceof env.ConfigError ? new UserError(error.message) : error;
  }
}

/** Converts a failed system call, such as ENOSPC, to a UserError. Returns any other error unchanged. */
export function toUserError(error: unknown, what: string): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException;
  return syscall === undefined ? error : new UserError(`${what}: ${code}`);
}

/** Runs with a signal that the first Ctrl-C or `docker stop` aborts. The second one ends the process. */
export async function withInterrupt<T>(run: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const stop = new AbortController();
  const unlisten = () => {
    for (const name of STOP_SIGNALS) process.off(name, onInterrupt);
  };
  function onInterrupt(): void {
    unlisten();
    stop.abort();
  }
  for (const name of STOP_SIGNALS) process.on(name, onInterrupt);
  try {
    return await run(stop.signal);
  } finally {
    unlisten();
  }
}
