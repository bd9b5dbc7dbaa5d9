const MAX_TICK_MS = 250;
/** After a stall, until this many ticks have passed: the first turns of the event loop read what was sent meanwhile. */
const TICKS_TO_READ = 2;

export type Stalls = {
  /** Whether a request that began then, in ms as `performance.now()` has it, was sent before a stall was over. */
  isStale(startedAt: number): boolean;
  close(): void;
};

/**
 * Notices if this process stood still, frozen say, for longer than a request may take: partners may have given up, and sent
 * something newer elsewhere. The event loop reads sockets before timers get their turn, so whoever asks looks at the clock, too.
 * @param onStall hears of each, and of its length in ms, a tick more or less
 */
export function watchStalls(maxStallMs: number, onStall: (ms: number) => void): Stalls {
  const tickMs = Math.min(maxStallMs / 4, MAX_TICK_MS);
  let tickAt = performance.now();
  let ticksToRead = 0;
  let freshFrom = Number.NEGATIVE_INFINITY;

  function look(now: number): void {
    const ms = now - tickAt;
    if (ms < maxStallMs) return;
    if (ticksToRead === 0) onStall(Math.round(ms));
    ticksToRead = TICKS_TO_READ;
    freshFrom = Number.POSITIVE_INFINITY;
  }

  const timer = setInterval(() => {
    const now = performance.now();
    if (ticksToRead > 0 && --ticksToRead === 0) freshFrom = now;
    look(now);
    tickAt = now;
  }, tickMs);

  return {
    isStale(startedAt) {
      look(performance.now());
      return startedAt < freshFrom;
    },
    close: () => clearInterval(timer),
  };
}
