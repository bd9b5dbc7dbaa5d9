import { once } from 'node:events';
import { request as createRequest, createServer } from 'node:http';
import { type AddressInfo, connect, type Socket } from 'node:net';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { ANSWER_TIMEOUT_MS, waitFor } from '@opm/testkit';
import express, {
  type ErrorRequestHandler,
  type Express,
  type Request,
  type RequestHandler,
  type Response,
} from 'express';
import { toTimeBudget } from '../src/config.js';
import { withFastPath } from '../src/http/fast-express.js';
import { type IngressServer, serveIngress } from '../src/http/server.js';

// Express must behave the same with the classes of this server as with Node's own: every request goes to both.

const closed: string[] = [];
const hanging: string[] = [];

function createApp(): Express {
  const app = express();
  app.set('trust proxy', 1);
  app.use((request, response, next) => {
    response.locals.seen = request.path;
    response.on('close', () => closed.push(`${request.url} ${response.writableFinished}`));
    next();
  });
  app.get('/get', (request, response) => {
    const { ip, protocol, hostname, query, path, originalUrl, fresh, xhr, subdomains } = request;
    response.json({
      ip,
      protocol,
      hostname,
      query,
      path,
      originalUrl,
      fresh,
      xhr,
      subdomains,
      agent: request.get('User-Agent'),
    });
  });
  app.get('/negotiate', (_request, response) => {
    response
      .vary('accept')
      .format({ json: () => response.json({ is: 'json' }), html: () => response.send('<p>html</p>') });
  });
  app.get('/params/:id', (request, response) =>
    response.status(203).send(`${request.params.id} ${response.locals.seen}`),
  );
  app.get('/redirect', (_request, response) => response.redirect(307, '/get'));
  app.get('/headers', (_request, response) => {
    response.set('x-one', '1').append('x-many', 'a').append('x-many', 'b').cookie('c', 'v').links({ next: '/n' });
    response.type('text').send('ok');
  });
  app.get('/status', (_request, response) => response.sendStatus(204));
  app.get('/stream', (_request, response, next) => {
    pipeline(Readable.from(['a', 'b', 'c']), response).catch(next);
  });
  app.post('/json', express.json(), (request, response) =>
    response.json({ got: request.body, is: request.is('json') }),
  );
  app.post('/echo', (request, response) => request.pipe(response.status(201)));
  app.get('/throw', () => {
    throw new Error('thrown');
  });
  app.get('/reject', async () => {
    throw new Error('rejected');
  });
  app.get('/last', (_request, response) => response.set('connection', 'close').sendStatus(204));
  app.get('/hang', ({ url }) => void hanging.push(url));
  app.use(
    '/mounted',
    express.Router().get('/inner', (request, response) => response.json([request.baseUrl, request.url])),
  );
  const answerError: ErrorRequestHandler = (error, _request, response, _next) => {
    response.status(418).json({ error: error.message });
  };
  app.use(answerError);
  return app;
}

const budget = toTimeBudget(ANSWER_TIMEOUT_MS);
/** The timeouts of production. */
const impatience = toTimeBudget(1_000);

let ours: IngressServer;
let plain: ReturnType<typeof createServer>;
let ports: [ours: number, plain: number];

beforeAll(async () => {
  ours = await serveIngress({
    app: createApp(),
    host: '127.0.0.1',
    port: 0,
    maxConnections: 100,
    budget,
    closeDelayMs: 0,
  });
  plain = createServer({ keepAliveTimeout: 0 }, createApp()).listen(0, '127.0.0.1');
  await once(plain, 'listening');
  ports = [ours.port, (plain.address() as AddressInfo).port];
});
afterAll(async () => {
  plain.close();
  plain.closeAllConnections();
  await ours.close();
});

const ask = async (port: number, path: string, { method = 'GET', headers = {}, body }: RequestInit = {}) => {
  const sent = createRequest({
    host: '127.0.0.1',
    port,
    path,
    method,
    headers: { ...headers, host: 'api.example.com' } as never,
  });
  sent.end(body);
  const [response] = await once(sent, 'response');
  let text = '';
  for await (const part of response.setEncoding('utf8')) text += part;
  const { date, etag, ...rest } = response.headers;
  return { status: response.statusCode, headers: rest, text, dated: date !== undefined, tagged: etag !== undefined };
};

test.each<[what: string, path: string, init: RequestInit]>([
  [
    'the properties of a request',
    '/get?a=1&b=2',
    { headers: { 'user-agent': 'test', 'x-forwarded-for': '203.0.113.7', 'x-forwarded-proto': 'https' } },
  ],
  ['HEAD', '/get', { method: 'HEAD' }],
  ['OPTIONS', '/get', { method: 'OPTIONS' }],
  ['one type of two', '/negotiate', { headers: { accept: 'text/html' } }],
  ['the other type', '/negotiate', { headers: { accept: 'application/json' } }],
  ['a type that is not offered', '/negotiate', { headers: { accept: 'image/png' } }],
  ['a parameter', '/params/%C3%A4%20b', {}],
  ['a malformed parameter', '/params/%', {}],
  ['a redirect', '/redirect', {}],
  ['headers of all kinds', '/headers', {}],
  ['an answer without a body', '/status', {}],
  ['a stream', '/stream', {}],
  ['a JSON body', '/json', { method: 'POST', body: '{"a":[1]}', headers: { 'content-type': 'application/json' } }],
  ['a malformed body', '/json', { method: 'POST', body: '{"a":', headers: { 'content-type': 'application/json' } }],
  ['a large body, piped back', '/echo', { method: 'POST', body: 'x'.repeat(200_000) }],
  ['a handler that throws', '/throw', {}],
  ['a handler that rejects', '/reject', {}],
  ['a mounted router', '/mounted/inner?x', {}],
  ['an unknown route', '/nowhere', {}],
])('%s is answered as under Node’s own classes', async (_, path, init) => {
  const [answer, expected] = await Promise.all(ports.map((port) => ask(port, path, init)));
  expect(answer).toEqual(expected);
});

test('a request that is aborted ends its response, unfinished', async () => {
  for (const port of ports) {
    closed.length = 0;
    hanging.length = 0;
    const socket = connect(port, '127.0.0.1');
    socket.write('GET /hang HTTP/1.1\r\nhost: x\r\n\r\n');
    await waitFor(() => hanging.length > 0, { description: 'the request' });
    socket.resetAndDestroy(); // a client that only ends its sending side still waits
    await waitFor(() => closed.includes('/hang false'), { description: 'the response to close' });
  }
});

test('pipelined requests are answered in order', async () => {
  for (const port of ports) {
    const socket = connect(port, '127.0.0.1').setEncoding('utf8');
    let text = '';
    socket.on('data', (part: string) => {
      text += part;
    });
    socket.write(['a', 'b', 'c'].map((id) => `GET /params/${id} HTTP/1.1\r\nhost: x\r\n\r\n`).join(''));
    await waitFor(() => text.includes('c /params/c'), { description: 'three answers' });
    expect(text.match(/\w \/params\/\w/g)).toEqual(['a /params/a', 'b /params/b', 'c /params/c']);
    socket.destroy();
  }
});

test('on the fast path, handlers see the same request, and errors get the same answer', async () => {
  const handlers: RequestHandler[] = [
    (request, _response, next) => next(request.get('x-fail') === 'next' ? new Error('given') : undefined),
    async (request, response) => {
      if (request.get('x-fail') === 'reject') throw new Error('rejected');
      const { method, url, originalUrl, baseUrl, path, params, query, hostname, ip, route } = request;
      response.json({ method, url, originalUrl, baseUrl, path, params, query, hostname, ip, route: route.path });
    },
  ];
  const onError: ErrorRequestHandler = (error, _request, response, _next) => {
    response.status(418).json({ error: error.message });
  };
  const serve = (handleWith: (app: Express) => (request: Request, response: Response) => void) => {
    const app = express().disable('x-powered-by').post('/hot', handlers).use(onError);
    const handle = handleWith(app);
    return serveIngress({ app, handle, host: '127.0.0.1', port: 0, maxConnections: 100, budget, closeDelayMs: 0 });
  };
  const servers = await Promise.all([
    serve((app) => withFastPath(app, { method: 'POST', path: '/hot', handlers, onError })),
    serve((app) => app),
  ]);
  for (const [path, init, status] of [
    ['/hot', {}, 200],
    ['/hot', { headers: { 'x-fail': 'next' } }, 418],
    ['/hot', { headers: { 'x-fail': 'reject' } }, 418],
    ['/hot?a=1', {}, 200],
    ['/HOT/', {}, 200],
    ['/hot', { method: 'GET' }, 404],
    ['/hot', { method: 'OPTIONS' }, 200],
  ] as const) {
    const [answer, expected] = await Promise.all(
      servers.map(({ port }) => ask(port, path, { method: 'POST', ...init })),
    );
    expect(answer).toEqual(expected);
    expect(answer?.status).toBe(status);
  }
  await Promise.all(servers.map((server) => server.close()));
});

/** Everything that the server sends over a connection until it closes. */
async function readAll(...writes: string[]): Promise<string> {
  const socket = connect(ours.port, '127.0.0.1').setEncoding('utf8');
  let text = '';
  socket.on('data', (part: string) => {
    text += part;
    socket.write(writes.shift() ?? '');
  });
  socket.on('error', () => {});
  socket.write(writes.shift() ?? '');
  await new Promise((resolve) => socket.once('close', resolve)); // resolves for a reset connection too
  return text;
}

test('invalid bytes get no answer before that of a request in flight, and no second answer', async () => {
  expect(await readAll('GET /hang HTTP/1.1\r\nhost: x\r\n\r\nrubbish\r\n\r\n')).toBe('');
  const halfWay = 'GET /status HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n';
  const answered = await readAll(halfWay, 'rubbish\r\n\r\n');
  expect(answered.match(/HTTP\/1.1 \d+/g)).toEqual(['HTTP/1.1 204']);
  const next = await readAll('GET /status HTTP/1.1\r\nhost: x\r\n\r\n', 'rubbish\r\n\r\n');
  expect(next.match(/HTTP\/1.1 \d+/g)).toEqual(['HTTP/1.1 204', 'HTTP/1.1 400']);
});

test('a connection may have 100 unanswered requests; one more closes it', async () => {
  hanging.length = 0;
  expect(await readAll('GET /hang HTTP/1.1\r\nhost: x\r\n\r\n'.repeat(1_000))).toBe('');
  expect(hanging).toHaveLength(100);
  const last = 'GET /status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n';
  const answers = await readAll('GET /status HTTP/1.1\r\nhost: x\r\n\r\n'.repeat(99) + last);
  expect(answers.match(/HTTP\/1.1 204/g)).toHaveLength(100);
});

test('the unanswered requests of a connection may take 512 KiB; more close it', async () => {
  hanging.length = 0;
  const request = `GET /hang HTTP/1.1\r\nhost: x\r\nx: ${'a'.repeat(16_000)}\r\n\r\n`;
  expect(await readAll(request.repeat(1_000))).toBe('');
  expect(hanging.length * request.length).toBeLessThan(512 * 1024);
  expect(hanging.length).toBeGreaterThan(20);
});

test.each([
  ['requests', ''],
  ['requests for another protocol', 'connection: upgrade\r\nupgrade: h2c\r\n'],
])('%s behind an answer that closes its connection are not handled', async (_, headers) => {
  hanging.length = 0;
  const last = 'GET /last HTTP/1.1\r\nhost: x\r\n\r\n';
  const answers = await readAll(last + `GET /hang HTTP/1.1\r\nhost: x\r\n${headers}\r\n`.repeat(1_000));
  expect(answers.match(/HTTP\/1.1 \d+/g)).toEqual(['HTTP/1.1 204']);
  expect(hanging).toEqual([]);
});

test('a client that sends its headers or body too slowly, or nothing, gets a 408 and is disconnected', async () => {
  const beginnings = [
    'GET /get HTTP/1.1\r\nhost',
    'POST /json HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n{"a"',
    '',
  ];
  const options = { app: createApp(), host: '127.0.0.1', port: 0, maxConnections: 100, closeDelayMs: 0 };
  const impatient = await serveIngress({ ...options, budget: impatience });
  const answers = beginnings.map(async (beginning) => {
    const socket = connect(impatient.port, '127.0.0.1').setEncoding('utf8');
    let text = '';
    socket.on('data', (part: string) => {
      text += part;
    });
    socket.write(beginning);
    await once(socket, 'close');
    return text;
  });
  for (const text of await Promise.all(answers)) {
    expect(text).toMatch(/^HTTP\/1.1 408 Request Timeout\r\n/);
    expect(text).toMatch(/"message":"request must arrive within 10 seconds"}$/);
  }
  await impatient.close();
});

test('a server that shuts down accepts requests for a while, and each answer closes its connection', async () => {
  const options = { app: createApp(), host: '127.0.0.1', port: 0, maxConnections: 100, budget, closeDelayMs: 5_000 };
  const leaving = await serveIngress(options);
  const get = async (socket: Socket) => {
    socket.write('GET /status HTTP/1.1\r\nhost: api.example.com\r\n\r\n');
    const [answer] = await once(socket, 'data');
    return String(answer);
  };
  const known = connect(leaving.port, '127.0.0.1');
  const ended = once(known, 'close');
  expect(await get(known)).toMatch(/^HTTP\/1.1 204 .*connection: keep-alive/is);
  const closed = leaving.close();
  expect(await get(known)).toMatch(/^HTTP\/1.1 204 .*connection: close/is);
  await ended;
  expect(await get(connect(leaving.port, '127.0.0.1'))).toMatch(/^HTTP\/1.1 204 .*connection: close/is);
  await closed;
  await expect(once(connect(leaving.port, '127.0.0.1'), 'connect')).rejects.toThrow('ECONNREFUSED');
});

test('a server that shuts down closes unused connections at once and the others within ten seconds', async () => {
  const leaving = await serveIngress({
    app: createApp(),
    host: '127.0.0.1',
    port: 0,
    maxConnections: 100,
    budget: impatience,
    closeDelayMs: 0,
  });
  const [silent, halfWay] = [connect(leaving.port, '127.0.0.1'), connect(leaving.port, '127.0.0.1')];
  const ended = [silent, halfWay].map((socket) => once(socket, 'close'));
  for (const socket of [silent, halfWay]) {
    socket.on('error', () => {});
    await once(socket, 'connect');
  }
  halfWay.write('GET /get HTTP/1.1\r\nhost: ');
  // The server accepts this connection after the other two, and has read the half request by then.
  expect((await ask(leaving.port, '/status')).status).toBe(204);
  const closed = leaving.close();
  await ended[0];
  expect(halfWay.closed).toBe(false);
  await Promise.all([...ended, closed]);
});
