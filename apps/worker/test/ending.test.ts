import { describe, expect, test } from '@jest/globals';
import { BACKENDS, query, startApp, waitFor } from '@opm/testkit';

/** The purge of tombstones takes almost as long as a statement may. */
const LINGER = `
  CREATE FUNCTION linger() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(14); RETURN NULL; END $$;
  CREATE TRIGGER linger BEFORE DELETE ON erasures FOR EACH STATEMENT EXECUTE FUNCTION linger()`;
const FIND_LINGERING = `
  SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep' AND query LIKE '%erasures%'`;

describe.each(BACKENDS)('a worker with the queue on %s', (_, createBackend) => {
  test('ends well in the middle of maintenance, sooner than that is done', async () => {
    const backend = await createBackend();
    const { databaseUrl } = backend;
    await query(databaseUrl, LINGER);
    const worker = await startApp('worker', backend.env);
    const isLingering = async () => (await query(databaseUrl, FIND_LINGERING)).length > 0;
    await waitFor(isLingering, { description: 'the purge' });
    expect(await worker.stop()).toEqual({ code: 0, signal: null });
    expect(await isLingering()).toBe(true);
    await backend.drop();
  });
});
