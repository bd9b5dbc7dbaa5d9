import { REPLAY_RATE } from '@opm/operations';
import { type Replayed, type ReplayInterrupted, replay } from '@opm/operations/actions';
import type { EntryQueue } from '@opm/queue';
import type { Logger } from '@opm/runtime';
import type { DeadLetterFilter, Store } from '@opm/store';

/** The replay that runs, or the last one. `handled`: letters that were replayed or skipped so far. */
export type Replay = {
  by: string;
  /** Such as `of acme`. */
  what: string;
  /** URL of the page that shows what became of it. */
  page: string;
  /** When it started, by PostgreSQL's clock. */
  since: Date;
  total: number;
  handled: number;
  /** Undefined while it runs. */
  done?: Replayed;
  isInterrupted?: boolean;
};

const SHOWN_MS = 24 * 3_600_000;

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
  let last: { replay: Replay; filter: DeadLetterFilter } | undefined;

  async function run(filter: DeadLetterFilter, current: Replay): Promise<void> {
    try {
      current.done = await replay({
        deadLetters: store.deadLetters,
        findErased: store.customers.findErased,
        queue,
        shards,
        filter,
        rate: REPLAY_RATE,
        onProgress: (handled) => {
          current.handled += handled;
        },
        signal,
      });
    } catch (error) {
      current.done = (error as ReplayInterrupted).done; // replay throws nothing else
      current.isInterrupted = true;
      logger.error({ err: error }, 'replaying dead letters was interrupted');
    }
  }

  const isRunning = () => last !== undefined && !last.replay.done;

  return {
    isRunning,

    /**
     * The replay that runs; otherwise the last one, for a day and on its page only. `again`: how many of its entries became
     * dead letters again so far. @throws StoreError
     */
    async read(page: string): Promise<(Replay & { again: number }) | undefined> {
      if (!last) return undefined;
      const { replay: current, filter } = last;
      if (!current.done) return { ...current, again: 0 };
      if (current.page !== page || Date.now() - current.since.getTime() > SHOWN_MS) return undefined;
      const kept = await store.deadLetters.countReplayed(filter, current.since);
      return { ...current, again: Math.max(0, current.done.traced - kept) };
    },

    /** @returns false if another replay is running */
    start(filter: DeadLetterFilter, start: Pick<Replay, 'by' | 'what' | 'page' | 'since' | 'total'>): boolean {
      if (isRunning()) return false;
      last = { filter, replay: { ...start, handled: 0 } };
      void run(filter, last.replay);
      return true;
    },
  };
}
