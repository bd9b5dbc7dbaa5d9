import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { OpmClient } from '@opm/client';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, startApp, startProxy, type TcpProxy, type TestApp, waitFor } from '@opm/testkit';

/** Customers per fault. Each fault has its own, so that some are new during it. */
const CUSTOMERS = 20;
const TIMEOUT_MS = 6_000;

describe.each(BACKENDS)('a client that sends all the time, with the queue on %s:', (_, createPlace) => {
  let backend: Backend;
  let store: Store;
  let project: { projectId: number; apiKey: string };
  let queueLink: TcpProxy;
  let link: TcpProxy;
  let ingress: TestApp;
  let worker: TestApp;

  const startIngress = (port?: string) => {
    const { REDIS_URL, DATABASE_URL } = backend.env;
    const env = REDIS_URL ? { REDIS_URL: queueLink.url, DATABASE_URL } : { REDIS_URL: '', DATABASE_URL: queueLink.url };
    // Below the client's timeout, as in production.
    const limits = { ANSWER_TIMEOUT_MS: '3000' };
    return startApp('ingress', { ...backend.env, ...env, ...limits, ...(port && { PORT: port }) });
  };

  beforeAll(async () => {
    backend = await createPlace();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    project = await store.projects.create('acme');
    queueLink = await startProxy(backend.env.REDIS_URL || backend.databaseUrl);
    [ingress, worker] = await Promise.all([startIngress(), startApp('worker', backend.env)]);
    link = await startProxy(ingress.url);
  });
  afterAll(async () => {
    await Promise.all([ingress?.stop(), worker?.stop()]);
    await link?.close();
    await queueLink?.close();
    await store?.close();
    await backend?.drop();
  });

  test('despite faults between client and queue, no call fails or is lost, and each customer ends with what was sent last', async () => {
    const client = new OpmClient({
      url: link.url,
      apiKey: project.apiKey,
      timeoutMs: TIMEOUT_MS,
      deadlineMs: 600_000,
      maxQueued: 400,
    });
    const last = new Map<string, string>();
    const created: string[] = [];
    const failures: unknown[] = [];
    let accepted = 0;
    let sent = 0;
    let phase = 0;

    let isOver = false;
    const sending = (async () => {
      while (!isOver) {
        await client.ready();
        const customerId = `${phase}-${sent % CUSTOMERS}`;
        const phone = String(++sent);
        last.set(customerId, phone);
        client.send({ customerId, customerPhone: phone }).then(
          (result) => {
            accepted++;
            if (result.created) created.push(customerId);
          },
          (error) => failures.push(error),
        );
        if (sent % 10 === 0) await delay(5); // a moderate load, not the maximum
      }
    })();
    const goOn = async (what: string) => {
      const before = accepted;
      // More than can have been open at the call of goOn, so calls that were made since then succeed too.
      const hasGoneOn = () => failures.length > 0 || accepted > before + 1_000;
      await waitFor(hasGoneOn, { description: `entries to be accepted after ${what}` });
      expect(failures).toEqual([]);
      phase++;
    };

    try {
      await goOn('the start');
      await link.cut();
      await link.restore();
      await goOn('a cut connection');
      link.swallow();
      await goOn('connections that swallow everything');
      link.delay(TIMEOUT_MS / 3);
      await delay(TIMEOUT_MS); // the fault's own duration
      link.delay(0);
      await goOn('a slow connection');
      await queueLink.cut();
      await waitFor(() => ingress.readMetric('opm_answers_total{route="/entries",status="503"}'), {
        description: 'a refusal',
      });
      await queueLink.restore();
      await goOn('a queue that was away');
      const { port } = new URL(ingress.url);
      for (const signal of ['SIGTERM', 'SIGKILL'] as const) {
        await ingress.stop(signal);
        ingress = await startIngress(port);
        await goOn(`a restart after ${signal}`);
      }
    } finally {
      isOver = true;
      await sending;
      await client.close({ timeoutMs: 120_000 });
    }

    expect(failures).toEqual([]);
    expect(accepted).toBe(sent);
    expect(new Set(created).size).toBe(created.length);
    for (const [customerId, phone] of last) {
      const isStored = async () => (await store.customers.find(project.projectId, customerId))?.phone === phone;
      await waitFor(isStored, { description: `${customerId} to end with ${phone}` });
    }
  });
});
