/**
 * SQL for a new session: PostgreSQL flushes what it commits, whatever somebody has set on the role, the database or the server.
 * What is stricter, `remote_apply`, stays. Without it a crash could take back a row whose job is done.
 */
export const FLUSH_COMMITS = `
  SELECT set_config('synchronous_commit', 'on', false)
  WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')`;
