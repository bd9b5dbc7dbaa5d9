import { randomBytes } from 'node:crypto';
import { access, chown, mkdir, readdir, readFile, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { type Binaries, isErrno, type Layout, locateBinaries, prepareLayout, toLayout } from './binaries.js';
import { type Account, chooseAccount, createCommandRunner, type RunCommand } from './command-runner.js';
import { isAlive, startServer, stopServer } from './server.js';

export { findFreePort, readCommandLine } from './server.js';

interface EmbeddedPostgresOptions {
  /** Created on first use. Holds only the cluster, its password and its log. */
  dataDir: string;
  /** Default: a free port. */
  port?: number;
  /** Settings that override the durable defaults, such as `fsync=off`. */
  postgresFlags?: readonly string[];
  /** Added to the environment of this process. */
  env?: NodeJS.ProcessEnv | undefined;
}

export interface EmbeddedPostgres {
  /** URL of the database `opm`, with the role `opm`, a superuser. */
  url: string;
  port: number;
  /** Pid of the postmaster. */
  pid: number;
  /** Ends all sessions and resolves when the server has ended. Safe to call twice, or after a crash. */
  stop(): Promise<void>;
}

/**
 * Starts PostgreSQL on a loopback port. First stops a server that already runs on the data directory, such as that of a
 * killed process: callers that may run twice must lock the directory. @throws Error with the end of the server's log
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const layout = await prepareLayout(options.dataDir);
  const binaries = await locateBinaries();
  const account = await chooseAccount(layout);
  const run = await createCommandRunner({ account, binaries, layout, env: options.env });
  const installation = { account, binaries, layout, run };

  if (await isInitialised(layout)) await stopServer(installation);
  else await initialiseCluster(installation);

  const { port, pid } = await startServer(installation, options);
  const password = await readFile(layout.passwordFile, 'utf8');
  let stopped: Promise<void> | undefined;
  return {
    url: `postgresql://opm:${password}@127.0.0.1:${port}/opm`,
    port,
    pid,
    stop: () => {
      stopped ??= stopServer(installation);
      return stopped;
    },
  };
}

interface Installation {
  account: Account | undefined;
  binaries: Binaries;
  layout: Layout;
  run: RunCommand;
}

async function isInitialised({ cluster }: Layout): Promise<boolean> {
  try {
    await access(cluster);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return false;
    throw error;
  }
}

/** Creates the cluster in a scratch directory and renames it, so a data directory is complete or absent. */
async function initialiseCluster({ account, binaries, layout, run }: Installation): Promise<void> {
  await removeEmptyDirectory(layout);
  await removeAbandonedScratch(layout);
  const scratch = toLayout(`${scratchPrefix(layout)}${process.pid}`);
  await mkdir(scratch.dataDir, { mode: 0o700 });
  await writeFile(scratch.passwordFile, randomBytes(24).toString('base64url'), { mode: 0o600, flag: 'wx' });
  if (account) {
    for (const path of [scratch.dataDir, scratch.passwordFile]) await chown(path, account.uid, account.gid);
  }

  const pgdata = ['--pgdata', scratch.cluster];
  const credentials = ['--username', 'opm', '--pwfile', scratch.passwordFile, '--auth', 'scram-sha-256'];
  const locale = ['--encoding', 'UTF8', '--locale', 'C', '--locale-provider', 'builtin', '--builtin-locale', 'C.UTF-8'];
  const steps: [program: string, args: string[], input?: string][] = [
    [binaries.initdb, [...pgdata, ...credentials, ...locale, '--no-instructions']],
    [
      binaries.postgres,
      ['--single', '-D', scratch.cluster, '-c', 'exit_on_error=on', 'postgres'],
      'CREATE DATABASE opm',
    ],
  ];
  for (const [program, args, input] of steps) {
    const { succeeded, output } = await run(program, args, input);
    if (!succeeded) throw new Error(`${basename(program)} could not create ${layout.dataDir}: ${output}`);
  }
  await rename(scratch.dataDir, layout.dataDir);
}

/** Removes the data directory if it is empty. @throws Error if it is not: it holds other data */
async function removeEmptyDirectory({ dataDir }: Layout): Promise<void> {
  try {
    await rmdir(dataDir);
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return;
    if (!isErrno(error, 'ENOTEMPTY', 'EEXIST', 'ENOTDIR')) throw error;
    throw new Error(`${dataDir} holds something other than an embedded PostgreSQL: choose another data directory.`);
  }
}

/** Removes the scratch directories of processes that were killed during their first start. */
async function removeAbandonedScratch(layout: Layout): Promise<void> {
  const parent = dirname(layout.dataDir);
  const prefix = basename(scratchPrefix(layout));
  for (const name of await readdir(parent)) {
    const pid = name.startsWith(prefix) ? Number(name.slice(prefix.length)) : Number.NaN;
    const isAbandoned = pid === process.pid || (pid > 0 && !isAlive(pid));
    if (isAbandoned) await rm(join(parent, name), { recursive: true, maxRetries: 5 });
  }
}

function scratchPrefix({ dataDir }: Layout): string {
  return `${dataDir}.initdb-`;
}
