import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { FAULTS, toOpenApiDocument } from '@opm/contract';
import { toReceipt } from '@opm/core';
import { createStore, type Store } from '@opm/store';
import { BACKENDS, type Backend, startApp, type TestApp, waitFor } from '@opm/testkit';

const GUIDE = readFileSync(new URL('../docs/partners.md', import.meta.url), 'utf8');

type Headers = Record<string, string>;
type Example = {
  title: string;
  sent: { method: string; path: string; headers: Headers; body: string | undefined };
  answered: { status: string; headers: Headers; body: string };
};

const examples = parseExamples(GUIDE);

describe('the partner guide matches the program:', () => {
  let backend: Backend;
  let store: Store;
  let project: { projectId: number; apiKey: string };
  let limited: { apiKey: string };
  let ingress: TestApp;
  let worker: TestApp;

  beforeAll(async () => {
    const [, createBackend] = BACKENDS[0] as (typeof BACKENDS)[number];
    backend = await createBackend();
    store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    project = await store.projects.create('acme');
    const { projectId, apiKey } = await store.projects.create('limited');
    await store.projects.setLimit(projectId, { rate: 1, burst: 2 });
    limited = { apiKey };
    const entry = { customerId: '7540', version: Date.now() * 1_000, fields: { phone: '+1' } };
    const refused = { projectId: project.projectId, entry, payload: entry, sqlState: '22001', error: 'column "phone"' };
    await store.deadLetters.add([refused]);
    [ingress, worker] = await Promise.all([startApp('ingress', backend.env), startApp('worker', backend.env)]);
  });

  afterAll(async () => {
    await Promise.all([ingress?.stop(), worker?.stop()]);
    await store?.close();
    await backend?.drop();
  });

  test('every example is tested', () => {
    const requests = GUIDE.match(/^ *curl /gm) ?? [];
    expect(requests.length).toBeGreaterThan(10);
    expect(examples).toHaveLength(requests.length);
  });

  /** The receipt of the quickstart's first entry. */
  async function readReceipt(): Promise<string> {
    const find = async () => (await store.customers.findVersioned(project.projectId, ['7519'])).get('7519');
    const { versions } = await waitFor(find, { description: 'the customer to be stored' });
    return toReceipt({ customerId: '7519', version: versions.email, fields: { email: 'given', firstName: 'given' } });
  }

  const ask = async ({ sent: { method, path, headers, body }, answered }: Example): Promise<Example['answered']> => {
    const { apiKey } = 'ratelimit' in answered.headers ? limited : project;
    const given = path.includes('$RECEIPT') ? path.replace('$RECEIPT', await readReceipt()) : path;
    const response = await fetch(ingress.url + given, {
      method,
      headers: mapValues(headers, (value) => value.replace('$OPM_KEY', apiKey)),
      ...(body !== undefined && { body }),
    });
    return {
      status: `${response.status} ${response.statusText}`,
      headers: mapValues(answered.headers, (_, name) => response.headers.get(name) ?? 'none'),
      body: (await response.text())
        .replaceAll(/"\d{4}-\d\d-\d\dT[\d:.]+Z"/g, '"…"')
        .replace(/(?<="receipts":)\[.*?\]/, (receipts) => receipts.replaceAll(/"\w+"/g, '"…"'))
        .replaceAll(/"receipt":"\w+"/g, '"receipt":"…"'),
    };
  };

  test.each(examples)('$title', async (example) => {
    if (example.answered.body.includes('"pending":false')) {
      const isStored = async () => (await ask(example)).body.includes('"pending":false');
      await waitFor(isStored, { description: 'the customer to be stored' });
    }
    expect(await ask(example)).toEqual(example.answered);
  });

  test('the customer is stored as shown', async () => {
    const [, shown = ''] = /^```json\n(.*?)^```$/ms.exec(GUIDE) ?? [];
    const expected = JSON.parse(shown);
    const merged = async () => {
      const customer = await store.customers.find(project.projectId, expected.customerId);
      return customer?.email && customer.phone ? customer : undefined;
    };
    await expect(waitFor(merged, { description: 'both entries to be stored' })).resolves.toMatchObject(expected);
  });

  const rows = new Set(
    Array.from(GUIDE.matchAll(/^\| (\d{3}) +\| `(.*?)` +\|/gm), ([, status, message]) => `${status} ${message}`),
  );

  test('every fault is in the table of statuses and messages', () => {
    // Their messages name a property; the table describes them.
    const { BODY_INVALID: _body, PATH_INVALID: _path, QUERY_INVALID: _query, ...faults } = FAULTS;
    for (const { statusCode, message } of Object.values(faults)) {
      expect(rows).toContain(`${statusCode} ${message}`);
    }
  });

  test('the guide, its table and the OpenAPI document name the same statuses to retry', () => {
    const { info } = toOpenApiDocument({ version: '1.2.3' }) as { info: { description: string } };
    const named = [GUIDE, info.description].map((text) => {
      const [, statuses = ''] = /after a timeout, a lost connection,([\s\d,a]*or\s+a\s+\d{3})/.exec(text) ?? [];
      return statuses.match(/\d{3}/g);
    });
    const inTable = Array.from(GUIDE.matchAll(/^\| (\d{3}) .*\| yes/gm), ([, status]) => status);
    const worthIt = [...new Set(inTable)].sort();
    expect(worthIt).toContain('503');
    expect(named).toEqual([worthIt, worthIt]);
  });

  test.each([
    ['headers that are too large', '/ping', { 'x-large': 'x'.repeat(17_000) }, undefined],
    ['a body that is too large', '/entry', {}, 'x'.repeat(17_000)],
  ])('refuses %s as the table says', async (_, path, headers, body) => {
    const response = await fetch(ingress.url + path, {
      method: body ? 'POST' : 'GET',
      headers: { ...headers, 'x-api-key': project.apiKey },
      ...(body && { body }),
    });
    const { message } = (await response.json()) as { message: string };
    expect(rows).toContain(`${response.status} ${message}`);
  });
});

/** Returns each block with a curl command together with the block of its answer. */
function parseExamples(guide: string): Example[] {
  const blocks = guide.matchAll(/^```sh\n(curl .*?)^```\n+^```http\n(.*?)^```$/gms);
  return [...blocks].map(([, command = '', answer = '']) => {
    const answered = parseAnswer(answer);
    const sent = parseCommand(command.replaceAll('\\\n', ''));
    return { title: `${sent.method} ${sent.path} ${sent.body ?? ''} → ${answered.status}`, sent, answered };
  });
}

/**
 * Parses the few curl options that the guide uses.
 * @throws Error if the command has anything else
 */
function parseCommand(command: string): Example['sent'] {
  const headers: Headers = {};
  let [method, path, body]: [string?, string?, string?] = [];
  const rest = command
    .replace(/-X (\w+)/, (_, name) => take(() => (method = name)))
    .replace(/"\$OPM_URL(\/[^"]*)"/, (_, given) => take(() => (path = given)))
    .replace(/-H (["'])([\w-]+): (.*?)\1/g, (_, _quote, name, value) => take(() => (headers[name] = value)))
    .replace(/-d '([^']*)'/, (_, given) => take(() => (body = given)));
  if (path === undefined || !/^curl -i\s*$/.test(rest)) throw new Error(`not understood: ${rest || command}`);
  // curl sets this header by default.
  if (body !== undefined) headers['content-type'] ??= 'application/x-www-form-urlencoded';
  return { method: method ?? (body === undefined ? 'GET' : 'POST'), path, headers, body };
}

function take(note: () => void): string {
  note();
  return '';
}

function parseAnswer(answer: string): Example['answered'] {
  const [head = '', body = ''] = answer.trim().split('\n\n');
  const [statusLine = '', ...lines] = head.split('\n');
  const headers = Object.fromEntries(lines.map((line) => line.split(': ') as [string, string]));
  return { status: statusLine.replace('HTTP/1.1 ', ''), headers, body };
}

function mapValues(headers: Headers, map: (value: string, name: string) => string): Headers {
  return Object.fromEntries(Object.entries(headers).map(([name, value]) => [name, map(value, name)]));
}
