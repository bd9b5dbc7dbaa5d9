import { setTimeout as delay } from 'node:timers/promises';

const INTERVAL_MS = 100;
const MAX_LOOKED_UP = 1_000;

type Connection = { readonly destroyed: boolean };

type Waiting<Owner> = {
  hash: string;
  found: Promise<Owner | undefined>;
  resolve: (owner: Owner | undefined) => void;
  reject: (error: unknown) => void;
};

/**
 * Looks up keys of addresses that have tried too many: one query at a time, ten a second, so that guesses cost PostgreSQL next
 * to nothing. A connection waits with one key at a time. So the queue is never longer than there are connections, nobody is
 * refused for what others send, and 10,000 connections wait for a second.
 */
export function createSuspects<Owner>(findAll: (hashes: string[]) => Promise<(Owner | undefined)[]>) {
  const waiting = new Map<Connection, Waiting<Owner>>();
  let isRunning = false;

  async function takeTurns(): Promise<void> {
    isRunning = true;
    while (waiting.size > 0) {
      const interval = delay(INTERVAL_MS);
      dropClosed();
      const turn = [...waiting].slice(0, MAX_LOOKED_UP);
      await lookUpAll(turn.map(([, key]) => key));
      for (const [connection] of turn) waiting.delete(connection);
      await interval;
    }
    isRunning = false;
  }

  function dropClosed(): void {
    for (const [connection, { resolve }] of waiting) {
      if (!connection.destroyed) continue;
      waiting.delete(connection);
      resolve(undefined);
    }
  }

  async function lookUpAll(keys: Waiting<Owner>[]): Promise<void> {
    if (keys.length === 0) return;
    try {
      const owners = await findAll(keys.map(({ hash }) => hash));
      for (const [i, { resolve }] of keys.entries()) resolve(owners[i]);
    } catch (error) {
      for (const { reject } of keys) reject(error);
    }
  }

  /** @returns undefined if nobody has the key, the connection waits with another one, or it is closed before its turn */
  return async (hash: string, connection: Connection): Promise<Owner | undefined> => {
    const last = waiting.get(connection);
    if (last) return last.hash === hash ? last.found : undefined;
    const settle = {} as Pick<Waiting<Owner>, 'resolve' | 'reject'>;
    const found = new Promise<Owner | undefined>((resolve, reject) => Object.assign(settle, { resolve, reject }));
    waiting.set(connection, { hash, found, ...settle });
    if (!isRunning) void takeTurns();
    return found;
  };
}
