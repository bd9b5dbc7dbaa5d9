import { PassThrough, Transform } from 'node:stream';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, startApp, startProxy, waitFor } from '@opm/testkit';

const ENDED = 6;

const READY_FOR_QUERY = 'Z'.charCodeAt(0);
const HEADER_BYTES = 5;

/**
 * The message that PostgreSQL sends to its sessions on a fast shutdown:
 * https://www.postgresql.org/docs/current/protocol-error-fields.html
 */
function toFatal(): Buffer {
  const fields = ['SFATAL', 'VFATAL', 'C57P01', 'Mterminating connection due to administrator command', ''];
  const body = Buffer.from(fields.map((field) => `${field}\0`).join(''));
  const header = Buffer.from('E\0\0\0\0');
  header.writeInt32BE(body.length + 4, 1);
  return Buffer.concat([header, body]);
}

/** Lets a session begin, and ends it in the same packet as the greeting. */
function endBehindGreeting(): Transform {
  let unread = Buffer.alloc(0);
  return new Transform({
    transform(chunk, _encoding, done) {
      unread = Buffer.concat([unread, chunk]);
      let end = 0;
      while (unread.length >= end + HEADER_BYTES) {
        const next = end + 1 + unread.readInt32BE(end + 1);
        if (next > unread.length) break;
        if (unread[end] === READY_FOR_QUERY) {
          this.push(Buffer.concat([unread.subarray(0, next), toFatal()]));
          this.push(null);
          return; // Reads no more.
        }
        end = next;
      }
      if (end > 0) this.push(unread.subarray(0, end));
      unread = unread.subarray(end);
      done();
    },
  });
}

describe.each(BACKENDS)('with the queue on %s:', (_, createBackend) => {
  let backend: Backend;
  let store: Store;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  });
  afterAll(async () => {
    await store.close();
    await backend.drop();
  });

  // Two ranges, so that each kind of session is ended: processes open their sessions one after the other.
  test.each([0, 2])(
    `an ingress and a worker survive ${ENDED} sessions that end right after the greeting, beginning after the first %d`,
    async (first) => {
      const isEnded = (connection: number) => connection >= first && connection < first + ENDED;
      const start = async (name: 'ingress' | 'worker') => {
        const proxy = await startProxy(backend.databaseUrl, {
          toClient: (connection) => (isEnded(connection) ? endBehindGreeting() : new PassThrough()),
        });
        const app = await startApp(name, { ...backend.env, DATABASE_URL: proxy.url });
        return { app, proxy };
      };
      const { apiKey, projectId } = await store.projects.create(`after ${first}`);
      const [ingress, worker] = await Promise.all([start('ingress'), start('worker')]);

      let posted = 0;
      const post = async () => {
        const response = await fetch(`${ingress.app.url}/entry`, {
          method: 'POST',
          headers: { 'x-api-key': apiKey },
          body: JSON.stringify({ customerId: `${++posted}`, customerPhone: '+1' }),
        });
        await response.body?.cancel();
        return response.status;
      };
      const isServed = async () => {
        if ((await post()) !== 201) return false;
        const customerId = `${posted}`;
        return waitFor(() => store.customers.find(projectId, customerId), { description: 'the row' });
      };
      await waitFor(isServed, { description: 'the first entry to be a row' });
      for (const { app, proxy } of [ingress, worker]) {
        expect(app.output()).not.toContain('unhandled error');
        expect(await app.stop()).toEqual({ code: 0, signal: null });
        await proxy.close();
      }
    },
  );
});
