/** Rejects if the promise takes longer than `ms`. It does not cancel the work behind the promise. */
export async function withTimeout<T>(promise: Promise<T>, ms: number): Promise<T> {
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

/**
 * SQL that a new session must run: PostgreSQL then flushes each commit to disk, even if the role, the database or the
 * server has a weaker setting. It keeps the stricter `remote_apply`. Without it, a crash could lose a row whose job
 * is removed.
 */
export const FLUSH_COMMITS = `
  SELECT set_config('synchronous_commit', 'on', false)
  WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')`;
