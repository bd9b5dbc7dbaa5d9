export interface WaitOptions {
  /** Completes the sentence "Timed out after … ms waiting for". */
  description: string;
  timeoutMs?: number;
  /** Calls its argument whenever the condition may have begun to hold, for a poll without a pause. */
  onChange?: (poll: () => void) => void;
}

type Truthy<T> = Exclude<T, undefined | null | false | 0 | ''>;

/** Default timeout, in ms: longer than any step takes on a slow machine. */
export const PATIENCE_MS = 600_000;

/**
 * The pause between two polls is a tenth of the time waited so far, because frequent polls slow other processes down.
 */
const MIN_POLL_MS = 15;
const MAX_POLL_MS = 250;

/**
 * Polls until the condition holds and returns its value. A condition that throws does not hold yet; the last error
 * becomes the cause when time is up.
 */
export async function waitFor<T>(
  condition: () => T | Promise<T>,
  { description, timeoutMs = PATIENCE_MS, onChange }: WaitOptions,
): Promise<Truthy<T>> {
  const since = performance.now();
  let poll = () => {};
  onChange?.(() => poll());
  for (;;) {
    let cause: unknown;
    try {
      const value = await condition();
      if (value) return value as Truthy<T>;
    } catch (error) {
      cause = error;
    }
    const waitedMs = performance.now() - since;
    if (waitedMs >= timeoutMs) throw new Error(`Timed out after ${timeoutMs} ms waiting for ${description}`, { cause });
    const pauseMs = Math.min(Math.max(MIN_POLL_MS, waitedMs / 10), MAX_POLL_MS);
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, pauseMs);
      poll = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
