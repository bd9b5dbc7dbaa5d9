import { once } from 'node:events';
import { Agent, type IncomingMessage, request } from 'node:http';
import { setTimeout as delay } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { findFreePort } from '@opm/embedded';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, startApp, type TestApp, waitFor } from '@opm/testkit';

const CLIENTS = 8;
/** Pause of a client between two entries: moderate load, not the maximum. */
const PAUSE_MS = 100;
const HEALTH_CHECK_MS = 100;
/** Long enough for the load balancer's health check even on a busy machine. */
const SHUTDOWN_DELAY_MS = 3_000;

/** The address of an ingress and of its successor. */
type Place = { port: number; internalPort: number; isReady: boolean; answered: number };

const createPlace = async (): Promise<Place> => {
  const [port, internalPort] = [await findFreePort(), await findFreePort()];
  return { port, internalPort, isReady: false, answered: 0 };
};

/** A minimal load balancer, which polls `/readyz`. */
class Balancer {
  readonly #places: Place[];
  readonly #timer = setInterval(() => void this.#checkAll(), HEALTH_CHECK_MS);

  constructor(places: Place[]) {
    this.#places = places;
  }

  async #checkAll(): Promise<void> {
    for (const place of this.#places) {
      const answer = await fetch(`http://127.0.0.1:${place.internalPort}/readyz`).catch(() => undefined);
      await answer?.body?.cancel();
      place.isReady = answer?.ok ?? false;
    }
  }

  choose(turn: number): Promise<Place> {
    const findReady = () => {
      const ready = this.#places.filter(({ isReady }) => isReady);
      return ready[turn % ready.length];
    };
    return waitFor(findReady, { description: 'an ingress that is ready' });
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}

describe.each(BACKENDS)('two ingresses and two workers, with the queue on %s:', (_, createBackend) => {
  let backend: Backend;
  let store: Store;
  let apiKey: string;
  let projectId: number;
  let places: Place[];
  let starts: (() => Promise<TestApp>)[];
  let apps: TestApp[] = [];

  const startWorker = () => startApp('worker', backend.env);
  const startIngress = ({ port, internalPort }: Place) =>
    startApp('ingress', {
      ...backend.env,
      PORT: String(port),
      INTERNAL_PORT: String(internalPort),
      SHUTDOWN_DELAY_MS: String(SHUTDOWN_DELAY_MS),
    });

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    ({ apiKey, projectId } = await store.projects.create('acme'));
    places = [await createPlace(), await createPlace()];
    starts = places.flatMap((place) => [() => startIngress(place), startWorker]);
    apps = await Promise.all(starts.map((start) => start()));
  });
  afterAll(async () => {
    await Promise.all(apps.map((app) => app.stop()));
    await store.close();
    await backend.drop();
  });

  /** Acknowledged entries by customer: the number of 201s, and the last value of each field. */
  const acknowledged = new Map<string, { created: number; fields: { email?: string; phone?: string } }>();
  const failures: unknown[] = [];

  /**
   * @returns the status, or the error code of the connection; `busy` for a 503 of an ingress that is not shutting down
   */
  async function post(agent: Agent, place: Place, entry: object): Promise<number | string | undefined> {
    const { port } = place;
    const headers = { 'x-api-key': apiKey };
    const sent = request({ agent, host: '127.0.0.1', port, path: '/entry', method: 'POST', headers });
    sent.end(JSON.stringify(entry));
    try {
      const [response] = (await once(sent, 'response')) as [IncomingMessage];
      response.resume();
      await once(response, 'end');
      if (response.statusCode === 503 && response.headers.connection !== 'close') return 'busy';
      place.answered++;
      return response.statusCode;
    } catch (error) {
      return (error as NodeJS.ErrnoException).code;
    }
  }

  /** Sends the entry until it is acknowledged or fails; retries after `busy`. */
  async function send(agent: Agent, balancer: Balancer, turn: number, entry: object): Promise<201 | 202 | undefined> {
    for (;;) {
      const place = await balancer.choose(turn);
      const outcome = await post(agent, place, entry);
      if (outcome === 201 || outcome === 202) return outcome;
      if (outcome !== 'busy') return void failures.push(outcome);
    }
  }

  /** A partner with keep-alive connections. Two partners share their customers, and each writes another field. */
  async function runPartner(n: number, balancer: Balancer, isOver: () => boolean): Promise<void> {
    const agent = new Agent({ keepAlive: true });
    const [field, property] = n % 2 ? (['phone', 'customerPhone'] as const) : (['email', 'customerEmail'] as const);
    const pair = n >> 1;
    for (let round = 0; !isOver(); round++, await delay(PAUSE_MS)) {
      const customerId = round % 3 === 0 ? `new ${pair} ${round}` : `known ${pair}`;
      const status = await send(agent, balancer, n + round, { customerId, [property]: `${round}` });
      if (!status) continue;
      const { created, fields } = acknowledged.get(customerId) ?? { created: 0, fields: {} };
      const isCreated = status === 201 ? 1 : 0;
      acknowledged.set(customerId, { created: created + isCreated, fields: { ...fields, [field]: `${round}` } });
    }
    agent.destroy();
  }

  /** Resolves when both ingresses have answered 50 more requests. */
  async function underLoad(): Promise<void> {
    const due = places.map(({ answered }) => answered + 50);
    const isDone = () => places.every(({ answered }, i) => answered >= (due[i] ?? 0));
    await waitFor(isDone, { description: 'both ingresses to be under load' });
  }

  async function replaceAll(): Promise<void> {
    for (const [i, start] of starts.entries()) {
      await underLoad();
      expect(await apps[i]?.stop()).toEqual({ code: 0, signal: null });
      apps[i] = await start();
    }
    await underLoad();
  }

  test('each process is replaced under load: no request fails, no entry is lost, and no customer is created twice', async () => {
    const balancer = new Balancer(places);
    let isOver = false;
    const partners = Array.from({ length: CLIENTS }, (_client, n) => runPartner(n, balancer, () => isOver));
    await replaceAll().finally(() => {
      isOver = true;
    });
    await Promise.all(partners).finally(() => balancer.stop());

    expect(failures).toEqual([]);
    expect([...acknowledged].filter(([, { created }]) => created > 1)).toEqual([]);
    for (const [customerId, { fields }] of acknowledged) {
      const isStored = async () => {
        const row = await store.customers.find(projectId, customerId);
        return isDeepStrictEqual({ ...row, ...fields }, row);
      };
      await waitFor(isStored, { description: `the last acknowledged entries of ${customerId}` });
    }
  });
});
