import { setTimeout as delay } from 'node:timers/promises';
import type { EntryQueue } from '@opm/queue';
import pRetry from 'p-retry';

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

/** Converts a failed system call, such as ENOSPC, to a UserError. Returns any other error unchanged. */
export function toUserError(error: unknown, what: string): unknown {
  const { code, syscall } = error as NodeJS.ErrnoException;
  return syscall === undefined ? error : new UserError(`${what}: ${code}`);
}

/** Workers that lose their connection reconnect well within this time. */
const IDLE_TIMEOUT_MS = 5_000;
const POLL_MS = 250;
/** Waits up to half a minute in all, so that a command survives a restart or a pause of the queue store. */
export const QUEUE_RETRIES = { retries: 10, minTimeout: 100, maxTimeout: 5_000 };

/**
 * Checks that workers take jobs from every queue. Without a worker, entries become neither rows nor dead letters.
 * @throws UserError if a queue has no worker for `timeoutMs`; Fault QUEUE_UNAVAILABLE
 */
export async function assertHasWorkers(
  queue: Pick<EntryQueue, 'findIdle'>,
  timeoutMs = IDLE_TIMEOUT_MS,
): Promise<void> {
  const findIdle = () => pRetry(() => queue.findIdle(), QUEUE_RETRIES);
  let idle = await findIdle();
  for (const startedAt = Date.now(); idle.length > 0 && Date.now() - startedAt < timeoutMs; idle = await findIdle()) {
    await delay(POLL_MS);
  }
  if (idle.length === 0) return;
  throw new UserError(
    `no worker takes jobs from ${idle.join(', ')}: start a worker, set REDIS_URL, REDIS_PREFIX and QUEUE_SHARDS ` +
      "to the workers' values, or use --force",
  );
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
