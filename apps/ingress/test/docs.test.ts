import { once } from 'node:events';
import { get as getByHttp, type IncomingMessage } from 'node:http';
import { connect } from 'node:net';
import { brotliDecompressSync, gunzipSync } from 'node:zlib';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import { createStore, type Store } from '@opm/store';
import { type Backend, createBackend, findChromium, startApp, type TestApp, waitFor } from '@opm/testkit';
import { type Browser, chromium, type Page } from 'playwright-core';

let backend: Backend;
let store: Store;
let ingress: TestApp;
let apiKey: string;

beforeAll(async () => {
  backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
  store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
  ({ apiKey } = await store.projects.create('acme'));
  ingress = await startApp('ingress', backend.env);
});
afterAll(async () => {
  await ingress.stop();
  await store.close();
  await backend.drop();
});

describe('the files of the page', () => {
  const get = (path: string, headers: Record<string, string> = {}) => fetch(ingress.url + path, { headers });
  const DECODE = { br: brotliDecompressSync, gzip: gunzipSync, identity: (bytes: Buffer) => bytes };
  /** Not fetch: in Node.js 24.22 it throws if a compressed answer closes its connection before it has been read. */
  async function getEncoded(path: string, encoding: keyof typeof DECODE) {
    const [response] = (await once(
      getByHttp(ingress.url + path, { headers: { 'accept-encoding': encoding } }),
      'response',
    )) as [IncomingMessage];
    const text = DECODE[encoding](Buffer.concat(await response.toArray())).toString();
    return { status: response.statusCode, headers: new Headers(response.headers as Record<string, string>), text };
  }
  const findFiles = async () => (await (await get('/docs')).text()).match(/\/docs\/[\w.]+/g) ?? [];

  test('are referenced by the page, immutable for caches, and equal in every encoding', async () => {
    const files = await findFiles();
    expect(files).toHaveLength(3);
    for (const file of files) {
      const texts: string[] = [];
      for (const encoding of ['br', 'gzip', 'identity'] as const) {
        const response = await getEncoded(file, encoding);
        expect(response.status).toBe(200);
        expect(response.headers.get('content-encoding') ?? 'identity').toBe(encoding);
        expect(response.headers.get('vary')).toBe('accept-encoding');
        expect(response.headers.get('x-content-type-options')).toBe('nosniff');
        expect(response.headers.get('cache-control')).toBe('public, max-age=31536000, immutable');
        expect(response.headers.get('content-type')).toMatch(/^text\/(css|javascript); charset=utf-8$/);
        texts.push(response.text);
      }
      expect(texts).toEqual(texts.map(() => texts[0]));
    }
  });

  test('have a content security policy that allows no other host', async () => {
    const { headers } = await get('/docs');
    expect(headers.get('content-security-policy')).toMatch(/^default-src 'none'; script-src 'self'; /);
    expect(headers.get('content-security-policy')).not.toMatch(/https?:|\*|unsafe-eval|script-src[^;]*unsafe/);
    expect(headers.get('cache-control')).toBe('no-cache');
  });

  test.each(['/docs/nothing.js', '/docs/..%2fmain.js', '/docs/%2e%2e%2fmain.js', '/docs/', '/docs/index', '/docs/a/b'])(
    'are the only ones; other paths are a 404: %s',
    async (path) => {
      const response = await get(path);
      if (path === '/docs/') return expect(response.status).toBe(200);
      expect([response.status, await response.json()]).toMatchObject([404, { message: 'route does not exist' }]);
      expect(response.headers.get('content-encoding')).toBeNull();
    },
  );

  test('are not sent again to a client that has them', async () => {
    for (const path of ['/docs', ...(await findFiles())]) {
      const head = await fetch(ingress.url + path, { method: 'HEAD' });
      expect([head.status, await head.text()]).toEqual([200, '']);
      expect(Number(head.headers.get('content-length'))).toBeGreaterThan(0);
      const etag = head.headers.get('etag') as string;
      const again = await get(path, { 'if-none-match': etag, 'cache-control': 'max-age=0' });
      expect([again.status, await again.text(), again.headers.get('etag')]).toEqual([304, '', etag]);
    }
  });

  test('cost no memory, however many requests are not read', async () => {
    const [CONNECTIONS, REQUESTS] = [40, 100];
    const viewer = (await findFiles()).find((file) => file.includes('viewer')) as string;
    const answered = () => ingress.readMetric('opm_answers_total{route="/docs/:file",status="200"}');
    const memory = () => ingress.readMetric('process_resident_memory_bytes');
    const [before, answeredBefore] = [await memory(), await answered()];
    const sockets = Array.from({ length: CONNECTIONS }, () => {
      const socket = connect(Number(new URL(ingress.url).port), '127.0.0.1').pause();
      socket.write(`GET ${viewer} HTTP/1.1\r\nhost: a\r\n\r\n`.repeat(REQUESTS));
      return socket;
    });
    // A large answer closes its connection, so the requests behind it are not handled.
    await waitFor(async () => (await answered()) - answeredBefore >= CONNECTIONS, {
      description: 'every connection to be answered',
    });
    expect((await memory()) - before).toBeLessThan(100 * 1024 ** 2);
    for (const socket of sockets) socket.destroy();
  });

  test('need no key, but an unknown key is a 401', async () => {
    expect((await get('/docs', { 'x-api-key': apiKey })).status).toBe(200);
    expect((await get('/docs', { 'x-api-key': 'wrong' })).status).toBe(401);
    expect((await fetch(`${ingress.url}/docs`, { method: 'POST' })).headers.get('allow')).toBe('GET, HEAD');
    expect(await ingress.readMetric('opm_answers_total{route="/docs",status="200"}')).toBeGreaterThan(0);
  });
});

describe.each([
  ['a wide screen', { viewport: { width: 1280, height: 900 } }],
  ['a phone', { viewport: { width: 390, height: 844 }, isMobile: true, hasTouch: true }],
])('on %s,', (_, device) => {
  let browser: Browser;
  let page: Page;
  let wrong: string[];
  let hosts: Set<string>;

  beforeAll(async () => {
    browser = await chromium.launch({ executablePath: await findChromium() });
  }, 600_000);
  afterAll(() => browser?.close());

  beforeEach(async () => {
    page = await browser.newPage(device);
    page.setDefaultTimeout(60_000);
    [wrong, hosts] = [[], new Set()];
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) wrong.push(message.text());
    });
    page.on('pageerror', (error) => wrong.push(error.message));
    page.on('request', (request) => hosts.add(new URL(request.url()).origin));
    await page.goto(`${ingress.url}/docs`);
    await page.getByRole('heading', { name: 'OPM Partners API' }).waitFor();
  });
  afterEach(async () => {
    await page.close();
    expect(wrong).toEqual([]); // the browser reports a violation of the policy as an error
    expect([...hosts].filter((origin) => origin !== 'null')).toEqual([ingress.url]);
  });

  const OPERATIONS = {
    'Check the key': 'api-key/GET/ping',
    'Create or update a customer': 'entries/POST/entry',
    'Send up to 1000 entries': 'entries/POST/entries',
    'Read a customer': 'customers/GET/entry/{customerId}',
    'Erase a customer': 'customers/DELETE/entry/{customerId}',
  };
  /** Scrolls to the operation, because the page renders only visible ones. */
  const open = async (title: keyof typeof OPERATIONS) => {
    await page.goto(`${ingress.url}/docs#api-1/tag/${OPERATIONS[title]}`);
    const heading = page.getByRole('heading', { name: title });
    await heading.waitFor();
    return page.locator('section').filter({ has: heading }).last();
  };
  const titles = Object.keys(OPERATIONS) as (keyof typeof OPERATIONS)[];

  test('every operation is shown, with a snippet for curl and, after a click, one for JavaScript', async () => {
    for (const title of titles) {
      const snippet = (await open(title)).locator('code').filter({ hasText: 'curl http' }).first();
      await snippet.waitFor();
      // If all partners copied the same key, they would get a replay or a 422.
      expect((await snippet.textContent())?.toLowerCase()).not.toContain('idempotency-key');
    }
    await page.goto(`${ingress.url}/docs#introduction`);
    await page.locator('.client-libraries').filter({ hasText: 'JavaScript' }).first().click();
    for (const title of titles) await (await open(title)).getByText("fetch('http").first().waitFor();
  });

  test('a visitor can test an entry with an API key, which the page forgets when it is reloaded', async () => {
    const value = page.getByLabel('Value').first();
    await value.waitFor();
    const placeholder = `getComputedStyle(document.querySelector('input[placeholder^=QUxM]'), '::placeholder').color`;
    expect(await page.evaluate(placeholder)).toBe('rgba(0, 0, 0, 0)'); // the viewer's joke
    await value.fill(apiKey);
    const operation = await open('Create or update a customer');
    await operation.getByRole('button', { name: 'Test Request' }).click();
    const answered = page.waitForResponse(`${ingress.url}/entry`);
    await page.getByRole('button', { name: /^Send post request/ }).click();
    expect([201, 202]).toContain((await answered).status());
    expect((await answered).request().headers()).not.toHaveProperty('idempotency-key');
    await page
      .getByText(/"OK - (Created|Update accepted)"/)
      .last()
      .waitFor();

    expect(await page.evaluate('JSON.stringify([localStorage, sessionStorage])')).not.toContain(apiKey);
    await page.reload();
    await value.waitFor();
    expect(await value.inputValue()).toBe('');
  });
});
