/** What the server says of the project's limit. */
export interface RateLimit {
  /** Entries that may be sent at once after a quiet while. */
  burst: number;
  /** How many more may be sent with every second. */
  perSecond: number;
  /** Entries that may be sent now. */
  remaining: number;
}

/**
 * The fields RateLimit-Policy, as `"burst";q=200;w=2;opm-rate=100`, and RateLimit, as `"burst";r=5;t=1`. `w` is rounded up to whole
 * seconds, so it tells the rate only if there is no `opm-rate`. @returns undefined where they do not say
 */
export function parseRateLimit(policy: unknown, state: unknown): RateLimit | undefined {
  const [burst, seconds, remaining] = [readNumber(policy, 'q'), readNumber(policy, 'w'), readNumber(state, 'r')];
  if (!burst || !seconds || remaining === undefined) return undefined;
  return { burst, perSecond: readNumber(policy, 'opm-rate') || burst / seconds, remaining };
}

function readNumber(field: unknown, name: string): number | undefined {
  const [, digits] = new RegExp(`^[^,]*;\\s*${name}=(\\d{1,9})(?![\\d.])`).exec(String(field)) ?? [];
  return digits === undefined ? undefined : Number(digits);
}
