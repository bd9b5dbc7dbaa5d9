const MAX_TICK_MS = 250;
/** Turns of the event loop without a new connection, after which all that was sent during a stall has been read. */
const QUIET_TURNS = 3;
/** Node accepts one connection per turn. So many may have waited for that, and no more: Node's default. */
const LISTEN_BACKLOG = 511;

export type Stalls = {
  /** Whether a request that began then, in ms as `performance.now()` has it, was sent before a stall was over. */
  isStale(startedAt: number): boolean;
  onConnection(): void;
  close(): void;
};

/**
 * Notices if this process stood still, frozen say, for longer than a request may take: partners may have given up, and sent
 * something newer elsewhere. The event loop reads sockets before timers get their turn, so whoever asks looks at the clock, too.
 * @param onStall hears of each, and of its length in ms, a tick more or less
 */
export function watchStalls(maxStallMs: number, onStall: (ms: number) => void): Stalls {
  let tickAt = performance.now();
  let freshFrom = Number.NEGATIVE_INFINITY;
  let quietTurns = 0;
  let accepted = 0;

  function look(): void {
    const now = performance.now();
    const ms = now - tickAt;
    tickAt = now;
    if (ms < maxStallMs) return;
    onStall(Math.round(ms));
    if (freshFrom !== Number.POSITIVE_INFINITY) setImmediate(onTurn);
    freshFrom = Number.POSITIVE_INFINITY;
    quietTurns = 0;
    accepted = 0;
  }

  function onTurn(): void {
    quietTurns++;
    if (quietTurns >= QUIET_TURNS || accepted > LISTEN_BACKLOG) freshFrom = performance.now();
    else setImmediate(onTurn);
  }

  const timer = setInterval(look, Math.min(maxStallMs / 4, MAX_TICK_MS));

  return {
    isStale(startedAt) {
      look();
      return startedAt < freshFrom;
    },
    onConnection() {
      accepted++;
      quietTurns = 0;
    },
    close: () => clearInterval(timer),
  };
}
