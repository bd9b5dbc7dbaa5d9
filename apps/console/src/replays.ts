import { type Replayed, ReplayInterrupted, replay } from '@opm/operations/actions';
import type { EntryQueue } from '@opm/queue';
import type { Logger } from '@opm/runtime';
import type { DeadLetterFilter, Store } from '@opm/store';

/** Dead letters per second; the same as `opm dead-letters replay`. */
const RATE = 200;

/** The replay that runs, or the last one. `handled`: letters that were replayed or skipped so far. */
export type Replay = {
  by: string;
  total: number;
  handled: number;
  /** Undefined while it runs. */
  done?: Replayed;
  isInterrupted?: boolean;
};

export type Replays = ReturnType<typeof createReplays>;

/** Replays dead letters in the background, one filter at a time. @param signal ends a replay after its page */
export function createReplays(deps: {
  store: Store;
  queue: EntryQueue;
  shards: number;
  signal: AbortSignal;
  logger: Pick<Logger, 'error'>;
}) {
  const { store, queue, shards, signal, logger } = deps;
  let last: Replay | undefined;

  async function run(filter: DeadLetterFilter, current: Replay): Promise<void> {
    try {
      current.done = await replay({
        deadLetters: store.deadLetters,
        findErased: store.customers.findErased,
        queue,
        shards,
        filter,
        rate: RATE,
        onProgress: (handled) => {
          current.handled += handled;
        },
        signal,
      });
    } catch (error) {
      current.done = error instanceof ReplayInterrupted ? error.done : { replayed: 0, skipped: 0 };
      current.isInterrupted = true;
      logger.error({ err: error }, 'replaying dead letters was interrupted');
    }
  }

  const isRunning = () => last !== undefined && !last.done;

  return {
    last: () => last,
    isRunning,
    /** @returns false if another replay is running */
    start(filter: DeadLetterFilter, total: number, by: string): boolean {
      if (isRunning()) return false;
      last = { by, total, handled: 0 };
      void run(filter, last);
      return true;
    },
  };
}
