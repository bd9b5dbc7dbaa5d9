import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from '@jest/globals';
import { type EmbeddedPostgres, startEmbeddedPostgres } from '@opm/embedded';
import { waitFor } from '@opm/testkit';
import { Client } from 'pg';

const FLAGS = ['synchronous_commit=on'];
let directory: string;
let dataDir: string;
let running: EmbeddedPostgres[];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'opm-embedded-'));
  dataDir = join(directory, 'deep', 'postgres');
  running = [];
});

afterEach(async () => {
  for (const postgres of running) await postgres.stop();
  await rm(directory, { recursive: true, force: true });
});

describe('embedded PostgreSQL', () => {
  test('serves the database opm on loopback only, with durable settings', async () => {
    const postgres = await start();
    expect(new URL(postgres.url)).toMatchObject({ protocol: 'postgresql:', username: 'opm', pathname: '/opm' });
    const settings = await query(postgres.url, 'SELECT name, setting FROM pg_settings WHERE name = ANY($1)', [
      ['fsync', 'listen_addresses', 'max_connections', 'server_encoding', 'TimeZone', 'unix_socket_directories'],
    ]);
    expect(Object.fromEntries(settings.map(({ name, setting }) => [name, setting]))).toEqual({
      fsync: 'on',
      listen_addresses: '127.0.0.1',
      max_connections: '200',
      server_encoding: 'UTF8',
      TimeZone: 'UTC',
      unix_socket_directories: '',
    });
  });

  test('requires its password, which only its owner can read', async () => {
    const postgres = await start();
    const url = new URL(postgres.url);
    url.password = 'wrong';
    await expect(query(url.href, 'SELECT 1')).rejects.toMatchObject({ code: '28P01' });
    expect((await stat(join(dataDir, 'password'))).mode & 0o777).toBe(0o600);
    expect((await stat(dataDir)).mode & 0o777).toBe(0o700);
  });

  test('keeps its data and password over a restart, and can be stopped twice', async () => {
    const first = await start();
    await query(first.url, 'CREATE TABLE kept AS SELECT 42 AS answer');
    await Promise.all([first.stop(), first.stop()]);
    await first.stop();

    const second = await start();
    expect(await query(second.url, 'SELECT answer FROM kept')).toEqual([{ answer: 42 }]);
    expect(new URL(second.url).password).toBe(new URL(first.url).password);
  });

  test('recovers what was committed before kill -9', async () => {
    const first = await start();
    await query(first.url, 'CREATE TABLE kept AS SELECT 42 AS answer');
    process.kill(await readServerPid(), 'SIGKILL');

    const second = await start();
    expect(await query(second.url, 'SELECT answer FROM kept')).toEqual([{ answer: 42 }]);
  });

  test('stop succeeds after the server has crashed', async () => {
    const postgres = await start();
    process.kill(await readServerPid(), 'SIGKILL');
    await expect(postgres.stop()).resolves.toBeUndefined();
  });

  test('replaces the server that a killed parent left running', async () => {
    const parent = startInParent();
    const orphan = await readUrl(parent);
    await kill(parent);
    expect(await query(orphan, 'SELECT 1 AS alive')).toEqual([{ alive: 1 }]);

    const postgres = await start();
    expect(await query(postgres.url, 'SELECT 1 AS alive')).toEqual([{ alive: 1 }]);
    await expect(query(orphan, 'SELECT 1')).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  test('starts again after a first start was killed halfway', async () => {
    const parent = startInParent();
    await waitFor(() => findScratchCluster(), { description: 'initdb to have begun' });
    await kill(parent);

    const postgres = await start();
    expect(await query(postgres.url, 'SELECT 1 AS alive')).toEqual([{ alive: 1 }]);
    expect(await readdir(join(directory, 'deep'))).toEqual(['postgres']);
  });

  test.each([
    ['now belongs to another program', () => `${process.pid}\n`],
    ['is missing', () => ''],
  ])('ignores a pid file whose pid %s', async (_case, content) => {
    await (await start()).stop();
    await writeFile(join(dataDir, 'cluster', 'postmaster.pid'), content());
    const postgres = await start();
    expect(await query(postgres.url, 'SELECT 1 AS alive')).toEqual([{ alive: 1 }]);
  });

  test('does not touch a directory that holds something else', async () => {
    await mkdir(dataDir, { recursive: true });
    await writeFile(join(dataDir, 'thesis.txt'), 'three years of work');
    await expect(start()).rejects.toThrow(/holds something other than an embedded PostgreSQL/);
    expect(await readdir(dataDir)).toEqual(['thesis.txt']);
  });

  test('says why it does not start, with the end of the log', async () => {
    await expect(start(['no_such_setting=1'])).rejects.toThrow(/did not start.*unrecognized configuration parameter/s);
  });
});

async function start(postgresFlags: readonly string[] = FLAGS): Promise<EmbeddedPostgres> {
  const postgres = await startEmbeddedPostgres({ dataDir, postgresFlags });
  running.push(postgres);
  return postgres;
}

function startInParent(): ChildProcess {
  const script = `
    const { startEmbeddedPostgres } = await import('@opm/embedded');
    const { url } = await startEmbeddedPostgres({ dataDir: process.argv[1] });
    process.stdout.write(url);
    setInterval(() => {}, 1000);`;
  return spawn(process.execPath, ['--input-type=module', '-e', script, dataDir], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
}

function readUrl(parent: ChildProcess): Promise<string> {
  return new Promise((resolve, reject) => {
    parent.stdout?.once('data', (data) => resolve(String(data)));
    parent.once('exit', () => reject(new Error('The parent has exited')));
  });
}

async function kill(parent: ChildProcess): Promise<void> {
  const exited = new Promise((resolve) => parent.once('exit', resolve));
  parent.kill('SIGKILL');
  await exited;
}

async function findScratchCluster(): Promise<boolean> {
  const [scratch] = await readdir(join(directory, 'deep'));
  if (!scratch?.includes('.initdb-')) return false;
  return (await readdir(join(directory, 'deep', scratch, 'cluster'))).includes('global');
}

async function readServerPid(): Promise<number> {
  return Number.parseInt(await readFile(join(dataDir, 'cluster', 'postmaster.pid'), 'utf8'), 10);
}

async function query(connectionString: string, text: string, values?: unknown[]): Promise<Record<string, unknown>[]> {
  const client = new Client({ connectionString });
  await client.connect();
  try {
    return (await client.query(text, values)).rows;
  } finally {
    await client.end();
  }
}
