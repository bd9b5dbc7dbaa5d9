import { randomBytes } from 'node:crypto';
import { access, chown, mkdir, readdir, rename, rm, rmdir, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { type Binaries, isErrno, type Layout, toLayout } from './binaries.js';
import type { Account, RunCommand } from './command-runner.js';
import { isAlive } from './server.js';

interface Installation {
  account: Account | undefined;
  binaries: Binaries;
  layout: Layout;
  run: RunCommand;
}

export async function isInitialised({ cluster }: Layout): Promise<boolean> {
  try {
    await access(cluster);
    return true;
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return false;
    throw error;
  }
}

/** Creates the cluster in a scratch directory and renames it, so a data directory is complete or absent. */
export async function initialiseCluster({ account, binaries, layout, run }: Installation): Promise<void> {
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
