import { execFile } from 'node:child_process';
import { access, constants, rm, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

interface Program {
  /** Name for messages, such as Redis. */
  title: string;
  /** Names of the program on the PATH, the best one first. */
  names: readonly string[];
  /** Debian packages that contain the program. */
  aptPackages: readonly string[];
  /** Command to run on a system without apt-get. */
  otherwise: string;
  /** An alternative, which completes "…, or". */
  alternative?: string | undefined;
}

/** Debian packages run this script before they start a service; exit code 101 forbids the start. */
const SERVICE_POLICY = '/usr/sbin/policy-rc.d';

/**
 * Returns the path of a local program. As root on Debian or Ubuntu, installs it if it is missing.
 * @throws Error with the command to run if it is missing and cannot be installed
 */
export async function findProgram(program: Program): Promise<string> {
  const { title, names } = program;
  const packages = program.aptPackages.join(' ');
  const found = await findOnPath(names);
  if (found) return found;

  const aptGet = await findOnPath(['apt-get']);
  if (!aptGet || process.geteuid?.() !== 0) {
    const fix = aptGet ? `sudo apt-get install ${packages}` : program.otherwise;
    throw new Error(`A real ${title} is needed: run "${fix}"${orElse(program)}.`);
  }
  process.stderr.write(`No ${title} here: installing ${packages} with apt-get\n`);
  await install(program, aptGet);

  const installed = await findOnPath(names);
  if (!installed) throw new Error(`apt-get installed ${packages}, but ${title} is not on the PATH.`);
  return installed;
}

const orElse = ({ alternative }: Program) => (alternative ? `, or ${alternative}` : '');

async function install(program: Program, aptGet: string): Promise<void> {
  const { aptPackages } = program;
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const run = (...args: string[]) => promisify(execFile)(aptGet, ['-qq', ...args], { env, maxBuffer: 1 << 24 });
  const isOurPolicy = await denyServiceStart();
  try {
    await run('update');
    await run('install', '-y', '--no-install-recommends', ...aptPackages);
  } catch (cause) {
    throw new Error(`apt-get could not install ${aptPackages.join(' ')}: install it by hand${orElse(program)}.`, {
      cause,
    });
  } finally {
    if (isOurPolicy) await rm(SERVICE_POLICY, { force: true });
  }
}

/** Returns false if the machine, such as a container image, has its own policy. */
async function denyServiceStart(): Promise<boolean> {
  try {
    await writeFile(SERVICE_POLICY, '#!/bin/sh\nexit 101\n', { mode: 0o755, flag: 'wx' });
    return true;
  } catch {
    return false;
  }
}

async function findOnPath(programs: readonly string[]): Promise<string | undefined> {
  // Debian installs some servers in a directory that is not on the PATH of ordinary users.
  const directories = [...(process.env.PATH ?? '').split(delimiter).filter(Boolean), '/usr/sbin'];
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

/**
 * Returns the path of a local Redis. See `findProgram`.
 * @param alternative an alternative, which completes "…, or"
 */
export function findRedisProgram(alternative?: string): Promise<string> {
  return findProgram({
    title: 'Redis',
    names: ['redis-server', 'valkey-server'],
    aptPackages: ['redis-server'],
    otherwise: 'brew install redis (or your package manager)',
    alternative,
  });
}

/** Returns the path of psql. See `findProgram`. */
export function findPsql(): Promise<string> {
  return findProgram({
    title: 'psql',
    names: ['psql'],
    aptPackages: ['postgresql-client'],
    otherwise: 'brew install libpq (or your package manager)',
  });
}

/** Returns the path of a C compiler. See `findProgram`. */
export function findCompiler(): Promise<string> {
  return findProgram({
    title: 'C compiler',
    names: ['cc', 'gcc', 'clang'],
    aptPackages: ['gcc', 'libc6-dev'],
    otherwise: 'apk add build-base (or your package manager)',
  });
}

/** Returns the path of a Chromium or Chrome. See `findProgram`. */
export async function findChromium(): Promise<string> {
  return (
    process.env.CHROMIUM_PATH ||
    findProgram({
      title: 'Chromium',
      names: ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'],
      aptPackages: ['chromium'],
      otherwise: 'brew install --cask chromium (or your package manager)',
      alternative: 'set CHROMIUM_PATH to a Chromium or Chrome',
    })
  );
}

/** Returns the path of a program of Debian's package `prometheus`. See `findProgram`. */
export function findPrometheus(name: 'prometheus' | 'promtool'): Promise<string> {
  return findProgram({
    title: name,
    names: [name],
    aptPackages: ['prometheus'],
    otherwise: 'brew install prometheus (or your package manager)',
  });
}

/** Returns the path of ShellCheck. See `findProgram`. */
export function findShellCheck(): Promise<string> {
  return findProgram({
    title: 'ShellCheck',
    names: ['shellcheck'],
    aptPackages: ['shellcheck'],
    otherwise: 'brew install shellcheck (or your package manager)',
  });
}
