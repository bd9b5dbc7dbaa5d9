import { mkdir } from 'node:fs/promises';
import { createServer, isIPv6 } from 'node:net';
import { resolve } from 'node:path';
import { startEmbeddedPostgres } from '@opm/embedded';
import getPort from 'get-port';
import { UserError } from '../user-error.js';
import { dataDirOf, readDatabaseUrl, withStore } from '../with-store.js';
import { type AppProcess, startApp } from './app-process.js';
import { DEMO_PROJECT, type DemoSecrets, prepareDemo } from './demo.js';
import { migrate } from './migrate.js';
import { claimDataDir, removeStackFile, toQueueEnv, writeStackFile } from './stack-file.js';

export type UpOptions = { port: number; consolePort: number; host: string; dataDir: string };

/** Runs the whole stack until it is told to stop. @throws UserError where the folder or a port is in use, before it starts anything */
export async function up(options: UpOptions, env: NodeJS.ProcessEnv): Promise<void> {
  const end = listenForEnd();
  const dataDir = resolve(options.dataDir);
  await claim(dataDir);
  try {
    await assertPortsFree(options);
    await runStack(dataDir, options, env, end);
  } finally {
    await removeStackFile(dataDir);
  }
}

/** Everything started is stopped in reverse order, also when a start fails. */
async function runStack(
  dataDir: string,
  options: UpOptions,
  env: NodeJS.ProcessEnv,
  { told, signal }: End,
): Promise<void> {
  const releases: (() => Promise<void>)[] = [];
  try {
    const databaseUrl = env.DATABASE_URL ? readDatabaseUrl(env) : await startDatabase(dataDir, releases);
    await writeStackFile(dataDir, {
      pid: process.pid,
      databaseUrl,
      queueEnv: toQueueEnv(env),
      url: toUrl(options.host, options.port),
    });
    if (signal.aborted) return;
    say('migrating the database');
    await migrate(databaseUrl, { detached: true });
    const secrets = await withStore({ DATABASE_URL: databaseUrl }, (store) => prepareDemo(store, dataDir));
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
    console.log(welcome(options, apps, { ...secrets, consolePassword }));
    const crash = Promise.race(apps.map(async ({ name, ended }) => `${name} ended: ${await ended}`));
    const crashed = await Promise.race([told, crash]);
    if (crashed) throw new UserError(`${crashed}; stopping the others`);
  } catch (error) {
    if (!signal.aborted) throw error; // or it is what Ctrl-C cut off
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
    `a stack runs in ${dataDir} already (process ${running.pid}); stop it, or choose another --data-dir`,
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

/** `told` resolves at Ctrl-C and the like. */
type End = { told: Promise<undefined>; signal: AbortSignal };

function listenForEnd(): End {
  const ending = new AbortController();
  const told = new Promise<undefined>((resolve) => {
    const end = () => {
      ending.abort();
      resolve(undefined);
    };
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, end);
    process.stdout.on('error', end); // whoever read it is gone
  });
  return { told, signal: ending.signal };
}

function welcome(options: UpOptions, apps: AppProcess[], { apiKey, consolePassword }: DemoSecrets): string {
  const { host, port, consolePort, dataDir } = options;
  const url = toUrl(host, port);
  const metrics = apps.map(({ name, internalPort }) => `${name} http://127.0.0.1:${internalPort}/metrics`);
  const folder = dataDir === dataDirOf({}) ? '' : `OPM_DATA_DIR=${dataDir} `;
  return `
  OPM Partners API is running. Ctrl-C stops it.

    API        ${url}
    Dashboard  ${toUrl(host, consolePort)}   any user name, password ${consolePassword}
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
