import { withTimeout } from '@opm/core';

/**
 * Named checks that must hold for a process to be ready. A check throws an error that says what is wrong; it may resolve
 * with a note on what is wrong but no reason to send requests elsewhere.
 */
export type Health = Record<string, () => Promise<string | void>>;

export type HealthReport = { ready: boolean; checks: Record<string, string> };

/** Runs the checks together; one that does not end in time has failed. */
export async function checkAll(health: Health, timeoutMs = 2_000): Promise<HealthReport> {
  let ready = true;
  const results = await Promise.all(
    Object.entries(health).map(async ([name, check]) => {
      try {
        return [name, (await withTimeout(check(), timeoutMs)) ?? 'ok'];
      } catch (error) {
        ready = false;
        return [name, (error as Error).message];
      }
    }),
  );
  return { ready, checks: Object.fromEntries(results) };
}
