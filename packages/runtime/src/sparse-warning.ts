import type { Logger } from './logger.js';

const MAX_KNOWN = 100;

/**
 * Logs an error that comes again and again once per interval, with the number of times that it was left out since. For
 * what mends itself and meanwhile is reported by every connection and every attempt.
 */
export function createSparseWarning(
  logger: Pick<Logger, 'warn'>,
  message: string,
  { intervalMs = 60_000, now = Date.now }: { intervalMs?: number; now?: () => number } = {},
): (error: Error) => void {
  const known = new Map<string, { loggedAt: number; leftOut: number }>();
  return (error) => {
    const kind = error.message.replace(/\bjob \d+/gi, 'job #');
    const last = known.get(kind);
    if (last && now() - last.loggedAt < intervalMs) {
      last.leftOut++;
      return;
    }
    logger.warn({ err: error, ...(last?.leftOut && { leftOut: last.leftOut }) }, message);
    if (known.size >= MAX_KNOWN) known.clear();
    known.set(kind, { loggedAt: now(), leftOut: 0 });
  };
}
