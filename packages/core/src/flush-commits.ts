/**
 * SQL that a new session must run: PostgreSQL then flushes each commit to disk, even if the role, the database or the
 * server has a weaker setting. It keeps the stricter `remote_apply`. Without it, a crash could lose a row whose job
 * is removed.
 */
export const FLUSH_COMMITS = `
  SELECT set_config('synchronous_commit', 'on', false)
  WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')`;
