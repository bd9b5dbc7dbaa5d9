import pg from 'pg';

/**
 * Keeps this process alive if PostgreSQL ends a session while nobody listens to its client, as a shutdown does right behind the
 * greeting: pg would throw, and BullMQ and pg's own pool listen only once they are connected, and not while they close. Nothing
 * is hidden by this: the next query of such a client fails. See https://github.com/brianc/node-postgres/issues/2762
 */
export function outliveSessions(): void {
  const { emit } = pg.Client.prototype;
  pg.Client.prototype.emit = function emitIfHeard(this: pg.Client, event: string | symbol, ...args: unknown[]) {
    if (event === 'error' && this.listenerCount('error') === 0) return false;
    return emit.call(this, event, ...args);
  };
}
