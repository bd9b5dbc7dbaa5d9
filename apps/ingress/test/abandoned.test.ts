import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { connect, type Socket } from 'node:net';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import {
  BACKENDS,
  type Backend,
  hasNoJobs,
  startApp,
  startProxy,
  type TcpProxy,
  type TestApp,
  WIDE_LIMITS,
  waitFor,
} from '@opm/testkit';

/** Longer than `ANSWER_TIMEOUT_MS`. */
const FROZEN_MS = 1_500;
const CLIENTS = 60;

type Client = { socket: Socket; customerId: string; answered: () => string };

describe.each(BACKENDS)('abandoned requests, with the queue on %s:', (_, createBackend) => {
  let backend: Backend;
  let store: Store;
  let proxy: TcpProxy;
  let ingress: TestApp;
  let other: TestApp;
  let apiKey: string;
  let projectId: number;

  beforeAll(async () => {
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    ({ apiKey, projectId } = await store.projects.create('acme'));
    proxy = await startProxy(backend.redisUrl ?? backend.databaseUrl);
    [ingress, other] = await Promise.all([
      startApp('ingress', { ...backend.env, ANSWER_TIMEOUT_MS: '1000' }),
      startApp('ingress', backend.env),
    ]);
  });
  afterAll(async () => {
    await Promise.all([ingress.stop(), other.stop()]);
    await proxy.close();
    await store.close();
    await backend.drop();
  });

  const post = async ({ url }: TestApp, customerId: string, customerPhone: string) => {
    const response = await fetch(`${url}/entry`, {
      method: 'POST',
      headers: { 'x-api-key': apiKey },
      body: JSON.stringify({ customerId, customerPhone }),
    });
    await response.body?.cancel();
    return response.status;
  };
  const untilPosted = (to: TestApp, customerId: string, phone = '+1') =>
    waitFor(async () => [201, 202].includes(await post(to, customerId, phone)), { description: 'an acknowledgement' });

  async function open(customerId: string, { url } = ingress): Promise<Client> {
    const socket = connect(Number(new URL(url).port), '127.0.0.1').on('error', () => {});
    let answered = '';
    socket.setEncoding('utf8').on('data', (text) => {
      answered += text;
    });
    await once(socket, 'connect');
    return { socket, customerId, answered: () => answered };
  }
  const toRequest = (line: string, body: unknown, headers = '') => {
    const text = JSON.stringify(body);
    return `${line} HTTP/1.1\r\nhost: opm\r\nx-api-key: ${apiKey}\r\n${headers}content-length: ${text.length}\r\n\r\n${text}`;
  };
  const WAYS: ((entry: object) => string)[] = [
    (entry) => toRequest('POST /entry', entry),
    (entry) => toRequest('POST /entry?by=router', entry),
    (entry) => toRequest('POST /entries', [entry]),
    (entry) => toRequest('POST /entries', entry, 'content-type: application/x-ndjson\r\n'),
  ];
  /** Asks on this connection, and waits for the answer. */
  async function untilPong({ socket, answered }: Client): Promise<void> {
    const pongs = () => answered().split('pong').length;
    const before = pongs();
    socket.write(toRequest('GET /ping', ''));
    await waitFor(() => pongs() > before, { description: 'the pong' });
  }
  const isStopped = async () => (await readFile(`/proc/${ingress.pid}/stat`, 'utf8')).includes(') T ');

  test('an ingress that was frozen refuses entries sent during the freeze, and then accepts new ones', async () => {
    const toIds = (what: string) => Array.from({ length: CLIENTS }, (_client, i) => `${what} ${i}`);
    await untilPosted(ingress, 'first');
    const kept = await Promise.all(toIds('kept').map((id) => open(id)));
    for (const { socket } of kept) socket.write(`GET /ping HTTP/1.1\r\nhost: opm\r\nx-api-key: ${apiKey}\r\n\r\n`);
    await waitFor(() => kept.every(({ answered }) => answered().includes('pong')), { description: 'the pongs' });

    process.kill(ingress.pid, 'SIGSTOP');
    await waitFor(isStopped, { description: 'the ingress to be frozen' });
    const frozenAt = performance.now();
    const clients = [...kept, ...(await Promise.all(toIds('new').map((id) => open(id))))];
    for (const [i, { socket, customerId }] of clients.entries()) {
      socket.write((WAYS[i % WAYS.length] as (entry: object) => string)({ customerId, customerPhone: 'old' }));
    }
    const patient = clients.filter((_client, i) => i % 3 === 0);
    for (const client of clients) if (!patient.includes(client)) client.socket.destroy();
    await Promise.all(clients.map(({ customerId }) => untilPosted(other, customerId, 'new')));
    await waitFor(() => performance.now() - frozenAt > FROZEN_MS, { description: 'the freeze to last' });
    process.kill(ingress.pid, 'SIGCONT');

    const lastAnswer = ({ answered }: Client) => answered().slice(answered().lastIndexOf('HTTP/1.1'));
    const isAnswered = (client: Client) =>
      lastAnswer(client).includes('message') && !lastAnswer(client).includes('pong');
    await waitFor(() => patient.every(isAnswered), { description: 'the answers' });
    expect(patient.map((client) => lastAnswer(client).slice(0, 12))).toEqual(patient.map(() => 'HTTP/1.1 503'));
    await untilPosted(ingress, 'last');
    for (const { socket } of clients) socket.destroy();

    const worker = await startApp('worker', backend.env);
    const isDone = async () => (await store.customers.find(projectId, 'last')) && (await hasNoJobs(worker));
    await waitFor(isDone, { description: 'an empty queue' });
    const rows = await store.customers.findMany(
      projectId,
      clients.map(({ customerId }) => customerId),
    );
    expect(clients.filter(({ customerId }) => rows.get(customerId)?.phone !== 'new')).toEqual([]);
    await worker.stop();
  });

  test('an entry whose client disconnected before the admission is not accepted', async () => {
    const place = backend.redisUrl === undefined ? { DATABASE_URL: proxy.url } : { REDIS_URL: proxy.url };
    const held = await startApp('ingress', { ...backend.env, ...place });
    // With a rate limit, the ingress looks the idempotency key up before the admission.
    const limited = await store.projects.create('limited');
    await store.projects.setLimit(limited.projectId, { rate: 1_000, burst: 1_000 });
    const headers = { 'x-api-key': limited.apiKey, 'idempotency-key': 'gone' };
    const toHeld = (line: string, body: unknown) =>
      toRequest(line, body, 'idempotency-key: gone\r\n').replace(apiKey, limited.apiKey);
    const PING = toHeld('GET /ping', '');
    expect((await fetch(`${held.url}/ping`, { headers })).status).toBe(200); // now it knows the API key
    const [client, witness] = [await open('gone', held), await open('witness', held)];
    await untilPong(witness); // and now the other one
    proxy.hold(); // the client disconnects during the look-up of the idempotency key
    const entry = { customerId: client.customerId, customerPhone: 'old' };
    client.socket.write(PING + toHeld('POST /entry', entry));
    await waitFor(() => client.answered().includes('pong'), { description: 'the pong' });
    client.socket.resetAndDestroy(); // by then the request behind it has been read
    await untilPong(witness); // and by then the ingress has seen the end of the connection
    witness.socket.destroy();
    proxy.release();
    const isRefused = () => held.readMetric('opm_shed_total{reason="waited"}');
    await waitFor(isRefused, { description: 'the entry to be refused' });
    const answer = await fetch(`${other.url}/entry`, { method: 'POST', headers, body: JSON.stringify(entry) });
    await answer.body?.cancel();
    expect([answer.status, answer.headers.get('idempotent-replayed')]).toEqual([201, null]);
    await held.stop();
  });

  test('a repeat is accepted though the client of its first attempt disconnected before the admission', async () => {
    const place = backend.redisUrl === undefined ? { DATABASE_URL: proxy.url } : { REDIS_URL: proxy.url };
    const held = await startApp('ingress', { ...backend.env, ...WIDE_LIMITS, ...place, CHUNKS_IN_FLIGHT: '1' });
    await untilPosted(held, 'before'); // now it knows the API key
    const untilPending = (entries: number) =>
      waitFor(async () => (await held.readMetric('opm_pending_entries')) === entries, {
        description: `${entries} pending entries`,
      });
    proxy.hold();
    const ahead = post(held, 'ahead', '+1');
    await untilPending(1);
    const entry = { customerId: 'again', customerPhone: '+1' };
    const request = toRequest('POST /entry', entry, 'idempotency-key: again\r\n');
    const first = await open('again', held);
    first.socket.write(request); // waits for the admission ahead
    await untilPending(2);
    const [repeat, witness] = [await open('again', held), await open('witness', held)];
    repeat.socket.write(request);
    await untilPong(witness); // by then the ingress has read the repeat
    first.socket.resetAndDestroy();
    await untilPong(witness); // and by then it has seen the end of the connection
    witness.socket.destroy();
    proxy.release();
    await waitFor(() => repeat.answered().includes('message'), { description: 'the answer' });
    expect(repeat.answered().slice(0, 12)).toBe('HTTP/1.1 201');
    expect(await held.readMetric('opm_shed_total{reason="waited"}')).toBe(1);
    repeat.socket.destroy();
    await ahead; // on PostgreSQL, its statement may have been given up
    await held.stop();
  });
});
