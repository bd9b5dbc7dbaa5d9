import type { EventEmitter } from 'node:events';

/**
 * SQL that a new session must run: PostgreSQL then flushes each commit to disk, even if the role, the database or the
 * server has a weaker setting. Keeps the stricter `remote_apply`. With a weaker setting, a crash could lose a row whose
 * job is already removed.
 */
export const FLUSH_COMMITS = `
  SELECT set_config('synchronous_commit', 'on', false)
  WHERE current_setting('synchronous_commit') NOT IN ('on', 'remote_apply')`;

/**
 * Keeps the process alive if PostgreSQL ends a session while the pg client has no `error` listener, which makes pg
 * throw. BullMQ and pg's own pool have none before they are connected and while they close; a PostgreSQL that shuts
 * down ends sessions right after the handshake. This hides no failure, because the client's next query fails. See
 * https://github.com/brianc/node-postgres/issues/2762
 * @param Client pg's
 */
export function ignoreUnheardPgErrors(Client: { prototype: EventEmitter }): void {
  const { emit } = Client.prototype;
  Client.prototype.emit = function emitIfListening(this: EventEmitter, event: string | symbol, ...args: unknown[]) {
    if (event === 'error' && this.listenerCount('error') === 0) return false;
    return emit.call(this, event, ...args);
  };
}
