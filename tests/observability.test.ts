import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { findFreePort } from '@opm/embedded';
import { createStore } from '@opm/store';
import {
  type AppName,
  type Backend,
  createBackend,
  findPrometheus,
  type RunningProgram,
  startApp,
  startProgram,
  type TestApp,
  waitFor,
} from '@opm/testkit';
import { parse, stringify } from 'yaml';

const FILES = join(import.meta.dirname, '../deploy/observability');
const read = (file: string) => readFileSync(join(FILES, file), 'utf8');

type Rule = {
  record?: string;
  alert?: string;
  expr: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
};
const rules: Rule[] = parse(read('rules.yml')).groups.flatMap((group: { rules: Rule[] }) => group.rules);
const alerts = rules.filter((rule): rule is Rule & { alert: string } => rule.alert !== undefined);
const records = rules.filter((rule): rule is Rule & { record: string } => rule.record !== undefined);

type Panel = { type: string; title: string; targets?: { expr: string }[] };
const panels: Panel[] = JSON.parse(read('grafana-board.json')).panels;
const panelQueries = panels.flatMap(({ title, targets = [] }) =>
  targets.map(({ expr }) => [title, expr.replaceAll('$__rate_interval', '1m')] as const),
);

/** The series that rules and panels name, each with its label matchers. */
const selectors = [...rules.map(({ expr }) => expr), ...panelQueries.map(([, expr]) => expr)].flatMap(
  (expr) => expr.match(/\b(?:opm[_:][\w:]+|nodejs_\w+|up\b)(?:\{[^}]*\})?/g) ?? [],
);

/** Alerts that the load causes on purpose, or that a slow machine may cause. */
const CAUSED = ['OpmEntriesRefusedFast', 'OpmEntriesRefusedSlowly', 'OpmPartnerLimited', 'OpmExistenceUnknown'];

describe('the files', () => {
  test.each([
    ['check', 'config', 'prometheus.yml'],
    ['check', 'rules', 'rules.yml'],
    ['test', 'rules', 'rules.test.yml'],
  ])('promtool %s %s %s succeeds', async (...args) => {
    const { stdout } = await promisify(execFile)(await findPrometheus('promtool'), args, { cwd: FILES });
    expect(stdout).toContain('SUCCESS');
  });

  test('a unit test makes each alert fire', () => {
    const tested = new Set([...read('rules.test.yml').matchAll(/alertname="(\w+)"/g)].map(([, name]) => name));
    expect([...tested].sort()).toEqual(alerts.map(({ alert }) => alert).sort());
  });

  test.each(alerts)('$alert has a severity, says what happens and what to do, and links to a section', (alert) => {
    expect(alert.labels).toEqual({ severity: expect.stringMatching(/^(critical|warning)$/) });
    const { summary, description, runbook_url, ...others } = alert.annotations ?? {};
    expect([summary, description, others]).toEqual([expect.stringMatching(/\.$/), expect.stringMatching(/\.$/), {}]);
    const [file = '', anchor] = runbook_url?.split('#') ?? [];
    expect(file).toBe('docs/runbook.md');
    const headings = [...readFileSync(file, 'utf8').matchAll(/^## (.+)$/gm)].map(([, heading = '']) => heading);
    expect(headings.map((text) => text.toLowerCase().replaceAll(' ', '-'))).toContain(anchor);
  });
});

describe('a Prometheus that scrapes two ingresses, a worker and a console under load', () => {
  let directory: string;
  let backend: Backend;
  const apps: TestApp[] = [];
  let worker: TestApp;
  let prometheus: RunningProgram | undefined;
  let endLoad = async () => {};

  beforeAll(async () => {
    const program = await findPrometheus('prometheus');
    directory = await mkdtemp(join(tmpdir(), 'opm-observability-'));
    backend = await createBackend(process.env.OPM_TEST_REDIS_URL);
    const store = createStore({ databaseUrl: backend.databaseUrl, applicationName: 'test' });
    const acme = await store.projects.create('acme');
    const limited = await store.projects.create('limited');
    await store.projects.setLimit(limited.projectId, { rate: 1, burst: 1 });
    await store.close();

    const targets: [job: string, address: string][] = [];
    const start = async (name: AppName, env: NodeJS.ProcessEnv = {}) => {
      const port = await findFreePort();
      const app = await startApp(name, { ...backend.env, ...env, INTERNAL_PORT: String(port) });
      apps.push(app);
      targets.push([`opm-${name}`, `127.0.0.1:${port}`]);
      return app;
    };
    const ingress = await start('ingress');
    const narrow = await start('ingress', { PENDING_MAX_ENTRIES: '1' });
    worker = await start('worker');
    await start('console', { CONSOLE_PASSWORD: 'a-password-for-tests' });
    endLoad = startLoad({ url: ingress.url, narrowUrl: narrow.url, key: acme.apiKey, limitedKey: limited.apiKey });

    prometheus = await startPrometheus(program, directory, targets);
  });
  afterAll(async () => {
    await prometheus?.stop();
    await endLoad();
    await Promise.all(apps.map((app) => app.stop()));
    await backend?.drop();
    if (directory) await rm(directory, { recursive: true });
  });

  async function ask<T>(path: string, parameters?: Record<string, string>): Promise<T> {
    const response = await fetch(`http://127.0.0.1:${prometheus?.port}/api/v1/${path}`, {
      ...(parameters && { method: 'POST', body: new URLSearchParams(parameters) }),
    });
    const { status, error, data } = (await response.json()) as { status: string; error?: string; data: T };
    if (status !== 'success') throw new Error(`${parameters?.query ?? path}: ${error}`);
    return data;
  }
  type Sample = { metric: Record<string, string>; value: [at: number, value: string] };
  const query = async (expr: string) => (await ask<{ result: Sample[] }>('query', { query: expr })).result;

  /** Executes the query at once, so that an invalid one fails, and then until it has a number. */
  async function expectData(expr: string): Promise<void> {
    await query(expr);
    const hasNumber = async () => (await query(expr)).some(({ value }) => Number.isFinite(Number(value[1])));
    await waitFor(hasNumber, { description: `data of ${expr}` });
  }

  test.each([...new Set(selectors)])('there is a series for %s', expectData);

  test.each(records)('$record has data', ({ expr }) => expectData(expr));

  test.each(panelQueries)('the panel "%s" has data for %s', (_title, expr) => expectData(expr));

  test.each(alerts)('$alert is executed', async ({ alert, expr }) => {
    await query(expr);
    if (CAUSED.includes(alert)) return;
    await waitFor(async () => (await query(expr)).length === 0, { description: 'no reason for the alert' });
  });

  test('every process tells its release, its commit and its version of Node.js', async () => {
    const { version } = JSON.parse(readFileSync('package.json', 'utf8'));
    const builds = await waitFor(
      async () => {
        const samples = await query('opm_build_info');
        return samples.length === apps.length && samples;
      },
      { description: 'the builds' },
    );
    for (const { metric, value } of builds) {
      expect([metric.version, metric.revision, metric.node, value[1]]).toEqual([
        version,
        expect.stringMatching(/./),
        process.version,
        '1',
      ]);
    }
  });

  test('Prometheus evaluates all rules by itself', async () => {
    type Loaded = { groups: { rules: { name: string; health: string; lastError?: string }[] }[] };
    const load = async () => (await ask<Loaded>('rules')).groups.flatMap((group) => group.rules);
    const isEvaluated = async () => (await load()).every(({ health }) => health !== 'unknown');
    await waitFor(isEvaluated, { description: 'all rules to be evaluated' });
    const evaluated = await load();
    expect(evaluated.filter(({ health }) => health !== 'ok')).toEqual([]);
    expect(evaluated).toHaveLength(rules.length);
  });

  test('the only worker ends: no data begins two alerts', async () => {
    await worker.stop();
    type Active = { alerts: { labels: Record<string, string>; annotations: Record<string, string> }[] };
    const find = async (name: string) =>
      (await ask<Active>('alerts')).alerts.find(({ labels }) => labels.alertname === name);
    await waitFor(() => find('OpmNoWorker'), { description: 'OpmNoWorker' });
    const silent = await waitFor(() => find('OpmProcessSilent'), { description: 'OpmProcessSilent' });
    expect(silent.labels.job).toBe('opm-worker');
    expect(silent.annotations.summary).toBe('A process of opm-worker does not report.');
  });
});

/** Runs prometheus.yml with other targets, and faster: a rate needs two scrapes. */
async function startPrometheus(program: string, directory: string, targets: [job: string, address: string][]) {
  const config = parse(read('prometheus.yml'));
  const file = join(directory, 'prometheus.yml');
  const scrapeConfigs = config.scrape_configs.map(({ dns_sd_configs: _, ...scrape }: Record<string, unknown>) => {
    const own = targets.filter(([job]) => job === scrape.job_name);
    return { ...scrape, static_configs: [{ targets: own.map(([, address]) => address) }] };
  });
  const own = {
    global: { scrape_interval: '2s', evaluation_interval: '2s' },
    rule_files: config.rule_files.map((name: string) => join(FILES, name)),
    scrape_configs: scrapeConfigs,
  };
  await writeFile(file, stringify({ ...config, ...own }));
  const port = await findFreePort();
  const place = [`--storage.tsdb.path=${join(directory, 'data')}`, `--web.listen-address=127.0.0.1:${port}`];
  const args = [`--config.file=${file}`, ...place];
  const running = await startProgram({ program, args, port, logFile: join(directory, 'prometheus.log') });
  const isReady = async () => (await fetch(`http://127.0.0.1:${port}/-/ready`)).ok;
  await waitFor(isReady, { description: 'Prometheus to be ready' });
  return running;
}

/**
 * Sends entries, batches, reads and erasures until the returned function is called. The narrow ingress refuses some of
 * them with 503, and the limit of the other key some with 429.
 */
function startLoad({ url, narrowUrl, key, limitedKey }: Record<'url' | 'narrowUrl' | 'key' | 'limitedKey', string>) {
  let isOver = false;
  let next = 0;
  const call = async (target: string, method: string, apiKey: string, body?: object) => {
    const json = body && { body: JSON.stringify(body) };
    const response = await fetch(target, { method, headers: { 'x-api-key': apiKey }, ...json });
    await response.arrayBuffer();
  };
  async function runPartner(): Promise<void> {
    while (!isOver) {
      const entry = { customerId: `load ${next++}`, customerPhone: '+1' };
      const customer = `${url}/entry/${encodeURIComponent(entry.customerId)}`;
      await call(`${url}/entry`, 'POST', key, entry);
      await call(`${url}/entries`, 'POST', key, [entry, { ...entry, customerId: `load ${next++}` }]);
      await Promise.all([1, 2, 3].map(() => call(`${narrowUrl}/entry`, 'POST', key, entry)));
      await call(`${url}/entry`, 'POST', limitedKey, entry);
      await call(customer, 'GET', key);
      await call(customer, 'DELETE', key);
    }
  }
  const partners = Promise.all([runPartner(), runPartner()]);
  return async () => {
    isOver = true;
    await partners;
  };
}
