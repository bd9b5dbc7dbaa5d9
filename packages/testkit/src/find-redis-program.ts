import { execFile } from 'node:child_process';
import { access, constants, rm, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

const PROGRAMS = ['redis-server', 'valkey-server'];
/** Consulted by Debian's packages before they start the service they install; 101 means "do not". */
const SERVICE_POLICY = '/usr/sbin/policy-rc.d';

/** The path of a local Redis; root on Debian or Ubuntu gets it installed. Else throws the line to run. */
export async function findRedisProgram(): Promise<string> {
  const found = await findOnPath(PROGRAMS);
  if (found) return found;

  const aptGet = await findOnPath(['apt-get']);
  if (!aptGet || process.geteuid?.() !== 0) throw new Error(`The tests need a real Redis: ${suggestFix(aptGet)}.`);
  process.stderr.write('No Redis here: installing redis-server with apt-get\n');
  await installRedis(aptGet);

  const installed = await findOnPath(PROGRAMS);
  if (!installed) throw new Error('apt-get installed redis-server, but it is not on the PATH.');
  return installed;
}

function suggestFix(aptGet: string | undefined): string {
  const install = aptGet ? 'sudo apt-get install redis-server' : 'brew install redis (or your package manager)';
  return `run "${install}", start Docker, or set REDIS_URL`;
}

async function installRedis(aptGet: string): Promise<void> {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const run = (...args: string[]) => promisify(execFile)(aptGet, ['-qq', ...args], { env, maxBuffer: 1 << 24 });
  const isOurPolicy = await denyServiceStart();
  try {
    await run('update');
    await run('install', '-y', '--no-install-recommends', 'redis-server');
  } catch (cause) {
    throw new Error('apt-get could not install redis-server: install it by hand or set REDIS_URL.', { cause });
  } finally {
    if (isOurPolicy) await rm(SERVICE_POLICY, { force: true });
  }
}

/** False when the machine, such as a container image, has a policy of its own. */
async function denyServiceStart(): Promise<boolean> {
  try {
    await writeFile(SERVICE_POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755, flag: 'wx' });
    return true;
  } catch {
    return false;
  }
}

async function findOnPath(programs: readonly string[]): Promise<string | undefined> {
  const directories = (process.env.PATH ?? '').split(delimiter).filter(Boolean);
  for (const path of programs.flatMap((program) => directories.map((directory) => join(directory, program)))) {
    try {
      await access(path, constants.X_OK);
      return path;
    } catch {
      // Not in this directory.
    }
  }
  return undefined;
}
