/** Named checks that must hold for a process to be ready. A check resolves, or throws an error that says what is wrong. */
export type Health = Record<string, () => Promise<void>>;

export type HealthReport = { ready: boolean; checks: Record<string, string> };

/** Runs the checks together; one that does not end in time has failed. */
export async function checkAll(health: Health, timeoutMs = 2_000): Promise<HealthReport> {
  const results = await Promise.all(
    Object.entries(health).map(async ([name, check]) => {
      try {
        await withTimeout(check(), timeoutMs);
        return [name, 'ok'] as const;
      } catch (error) {
        return [name, (error as Error).message] as const;
      }
    }),
  );
  return { ready: results.every(([, result]) => result === 'ok'), checks: Object.fromEntries(results) };
}

async function withTimeout<T>(promise: Promise<T>, ms: number): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no answer within ${ms} ms`)), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
