import { describe, expect, test } from '@jest/globals';
import { BACKENDS, query, startApp, waitFor } from '@opm/testkit';

/** Slows the purge of tombstones to 14 s, just below the statement timeout of 15 s. */
const SLOW_PURGE = `
  CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(14); RETURN NULL; END $$;
  CREATE TRIGGER linger BEFORE DELETE ON erasures FOR EACH STATEMENT EXECUTE FUNCTION linger()`;
const FIND_PURGE = `
  SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep' AND query LIKE '%erasures%'`;

describe.each(BACKENDS)('a worker with the queue on %s', (_, createBackend) => {
  test('stops cleanly during maintenance, without waiting for it', async () => {
    const backend = await createBackend();
    const { databaseUrl } = backend;
    await query(databaseUrl, SLOW_PURGE);
    const worker = await startApp('worker', backend.env);
    const isPurging = async () => (await query(databaseUrl, FIND_PURGE)).length > 0;
    await waitFor(isPurging, { description: 'the purge to start' });
    expect(await worker.stop()).toEqual({ code: 0, signal: null });
    expect(await isPurging()).toBe(true);
    await backend.drop();
  });
});
