import { Fault } from '@opm/contract';
import { createBar } from '../create-bar.js';
import { UserError } from '../user-error.js';
import { withInterrupt } from '../with-interrupt.js';
import { type QueueFlags, toOperatorText, withQueue } from '../with-queue.js';
import { withStore } from '../with-store.js';
import { countAll, toLetters } from './count.js';
import { type FilterOptions, toFilter } from './filter-options.js';
import { type Replayed, ReplayInterrupted, replay } from './replay.js';

export type ReplayFlags = QueueFlags & FilterOptions & { rate: number; dryRun?: true };

/** Replays with a bar on stderr, until Ctrl-C. @throws UserError */
export async function replayWithBar(
  env: NodeJS.ProcessEnv,
  options: ReplayFlags,
): Promise<Replayed & { isStopped: boolean }> {
  return withStore(env, async (store) => {
    const filter = await toFilter(store, options);
    const total = countAll(await store.deadLetters.count(filter));
    const replayAll = (signal: AbortSignal) =>
      withQueue(env, options, async (queue, shards) => {
        const bar = createBar('replay');
        bar.start(total);
        try {
          const done = await replay({
            deadLetters: store.deadLetters,
            findErased: store.customers.findErased,
            queue,
            shards,
            filter,
            rate: options.rate,
            onProgress: (handled) => bar.increment(handled),
            signal,
          });
          return { ...done, isStopped: signal.aborted };
        } catch (error) {
          if (!(error instanceof ReplayInterrupted)) throw error;
          throw new UserError(
            `${toReason(error.cause)}; ${toLetters(error.done.replayed)} had been queued, the others are dead letters still`,
          );
        } finally {
          bar.stop();
        }
      });
    return withInterrupt(replayAll);
  });
}

function toReason(error: unknown): string {
  const { message, cause } = error as Error;
  return cause instanceof Fault ? toOperatorText(cause) : message;
}
