import { randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer, isIPv6 } from 'node:net';
import { join, resolve } from 'node:path';
import { hashApiKey, SCOPES, toRuleTexts } from '@opm/core';
import { startEmbeddedPostgres } from '@opm/embedded';
import type { Store } from '@opm/store';
import getPort from 'get-port';
import { STOP_SIGNALS, UserError } from '../user-error.js';
import { dataDirOf, readDatabaseUrl, recordChange, withStore } from '../with-store.js';
import { type AppProcess, startApp } from './app-process.js';
import { migrate } from './migrate.js';
import { claimDataDir, readJsonFile, removeStackFile, toQueueEnv, writeStackFile } from './stack-file.js';

export type UpOptions = { port: number; consolePort: number; host: string; dataDir: string };

/**
 * Runs the whole stack until Ctrl-C or SIGTERM.
 * @throws UserError, before it starts anything, if the folder or a port is in use
 */
export async function up(options: UpOptions, env: NodeJS.ProcessEnv): Promise<void> {
  const stopRequest = listenForStop();
  const dataDir = resolve(options.dataDir);
  await claim(dataDir);
  try {
    await assertPortsFree(options);
    await runStack(dataDir, options, env, stopRequest);
  } finally {
    await removeStackFile(dataDir);
  }
}

/** Starts everything, and at the end stops it in reverse order, even if a start fails. */
async function runStack(
  dataDir: string,
  options: UpOptions,
  env: NodeJS.ProcessEnv,
  { requested, signal }: StopRequest,
): Promise<void> {
  const releases: (() => Promise<void>)[] = [];
  try {
    const databaseUrl = env.DATABASE_URL ? await readDatabaseUrl(env) : await startDatabase(dataDir, releases);
    await writeStackFile(dataDir, {
      pid: process.pid,
      databaseUrl,
      queueEnv: toQueueEnv(env),
      url: toUrl(options.host, options.port),
    });
    if (signal.aborted) return;
    say('migrating the database');
    await migrate(databaseUrl, { detached: true });
    const { hasAdmin, ...secrets } = await withStore({ DATABASE_URL: databaseUrl }, async (store) => ({
      ...(await prepareDemo(store, dataDir)),
      hasAdmin: await store.operators.hasAdmin(),
    }));
    const consolePassword = env.CONSOLE_PASSWORD || secrets.consolePassword;
    const appEnv = {
      ...env,
      DATABASE_URL: databaseUrl,
      HOST: options.host,
      PORT: String(options.port),
      CONSOLE_HOST: options.host,
      CONSOLE_PORT: String(options.consolePort),
      CONSOLE_PASSWORD: consolePassword,
    };
    const apps: AppProcess[] = [];
    for (const [name, port] of [
      ['console', 9402],
      ['worker', 9401],
      ['ingress', 9400],
    ] as const) {
      if (signal.aborted) return;
      const internalPort = await getPort({ port, host: '127.0.0.1' });
      const app = await startApp(name, { env: appEnv, internalPort, signal });
      releases.push(app.stop);
      apps.push(app);
    }
    console.log(welcome(options, apps, { ...secrets, consolePassword }, hasAdmin));
    const crash = Promise.race(apps.map(async ({ name, ended }) => `${name} ended with ${await ended}`));
    const crashed = await Promise.race([requested, crash]);
    if (crashed) throw new UserError(`${crashed}, so the whole stack was stopped`);
  } catch (error) {
    if (!signal.aborted) throw error; // after Ctrl-C, errors are expected
  } finally {
    say('stopping');
    for (const release of releases.reverse()) await release();
    say('stopped');
  }
}

async function claim(dataDir: string): Promise<void> {
  const running = await mkdir(dataDir, { recursive: true })
    .then(() => claimDataDir(dataDir))
    .catch((error: Error) => {
      throw new UserError(`--data-dir ${dataDir} cannot be used: ${error.message}`);
    });
  if (!running) return;
  throw new UserError(
    `a stack is already running in ${dataDir} (process ${running.pid}): stop it, or choose another --data-dir`,
  );
}

async function assertPortsFree({ host, port, consolePort }: UpOptions): Promise<void> {
  if (port === consolePort) throw new UserError(`--port and --console-port must differ, both are ${port}`);
  await assertFree(host, port, '--port');
  await assertFree(host, consolePort, '--console-port');
}

function assertFree(host: string, port: number, option: string): Promise<void> {
  return new Promise((free, reject) => {
    const server = createServer()
      .once('error', ({ code }: NodeJS.ErrnoException) =>
        reject(
          new UserError(
            code === 'EADDRINUSE'
              ? `port ${port} is taken by another program; choose another one with ${option}`
              : `cannot listen on ${host}:${port} (${code}); choose another ${code === 'EACCES' ? option : '--host'}`,
          ),
        ),
      )
      .listen(port, host, () => server.close(() => free()));
  });
}

async function startDatabase(dataDir: string, releases: (() => Promise<void>)[]): Promise<string> {
  say(`starting PostgreSQL in ${dataDir}`);
  const postgres = await startEmbeddedPostgres({ dataDir: `${dataDir}/postgres` }).catch((error: Error) => {
    throw new UserError(error.message);
  });
  releases.push(postgres.stop);
  return postgres.url;
}

/** `requested` resolves, and `signal` aborts, at one of {@link STOP_SIGNALS} or when stdout is closed. */
type StopRequest = { requested: Promise<undefined>; signal: AbortSignal };

function listenForStop(): StopRequest {
  const controller = new AbortController();
  const requested = new Promise<undefined>((resolve) => {
    const stop = () => {
      controller.abort();
      resolve(undefined);
    };
    for (const signal of STOP_SIGNALS) process.on(signal, stop);
    process.stdout.on('error', stop); // the reader of stdout has closed it
  });
  return { requested, signal: controller.signal };
}

function welcome(
  options: UpOptions,
  apps: AppProcess[],
  { apiKey, consolePassword }: DemoSecrets,
  hasAdmin: boolean,
): string {
  const { host, port, consolePort, dataDir } = options;
  const url = toUrl(host, port);
  const metrics = apps.map(({ name, internalPort }) => `${name} http://127.0.0.1:${internalPort}/metrics`);
  const folder = dataDir === dataDirOf({}) ? '' : `OPM_DATA_DIR=${dataDir} `;
  const login = hasAdmin
    ? `log in as an operator, see: ${folder}npx opm operators list`
    : `name admin, password ${consolePassword}`;
  return `
  OPM Partners API is running. Ctrl-C stops it.

    API        ${url}
    Console    ${toUrl(host, consolePort)}   ${login}
    Metrics    ${metrics.join('\n               ')}

  Send a customer (201 the first time, 202 after that):

    curl -i ${url}/entry -H 'x-api-key: ${apiKey}' \\
      -H 'content-type: application/json' -d '{"customerId":7519,"customerEmail":"jane@example.com","customerFirstName":"Jane"}'

  See the row:

    ${folder}npx opm customers get ${DEMO_PROJECT} 7519
`;
}

const toUrl = (host: string, port: number) => `http://${isIPv6(host) ? `[${host}]` : host}:${port}`;

function say(line: string): void {
  console.log(`opm: ${line}`);
}

const DEMO_PROJECT = 'demo';

/** Stored in the data folder, readable only by its owner, so a restart prints the same key and password. */
export type DemoSecrets = { apiKey: string; consolePassword: string };

/** Creates the demo project if it is missing, and a new key if the stored key has ended. */
async function prepareDemo(store: Store, dataDir: string): Promise<DemoSecrets> {
  const file = join(dataDir, 'demo.json');
  const known = await readJsonFile<DemoSecrets>(file);
  const project = await store.projects.find(DEMO_PROJECT);
  const secrets: DemoSecrets = {
    apiKey: (await keepKey(store, project?.projectId, known?.apiKey)) ?? (await issueKey(store, project?.projectId)),
    consolePassword: known?.consolePassword ?? randomBytes(12).toString('base64url'),
  };
  await writeFile(file, JSON.stringify(secrets), { mode: 0o600 });
  return secrets;
}

async function keepKey(store: Store, projectId: number | undefined, apiKey: string | undefined) {
  if (projectId === undefined || apiKey === undefined) return undefined;
  const keyHash = hashApiKey(apiKey);
  const owner = (await store.apiKeys.findOwners([keyHash])).get(keyHash);
  return owner?.projectId === projectId ? apiKey : undefined;
}

async function issueKey(store: Store, projectId: number | undefined): Promise<string> {
  if (projectId === undefined) {
    await recordChange(store, { action: 'projects create', target: DEMO_PROJECT });
    return (await store.projects.create(DEMO_PROJECT)).apiKey;
  }
  // The stored key has ended. Other keys stay valid, because they may be in use.
  const rules = { scopes: [...SCOPES], addresses: [] };
  await recordChange(store, { action: 'keys create', target: DEMO_PROJECT, details: toRuleTexts(rules) });
  return store.apiKeys.issue(projectId, rules);
}
