import { execFile } from 'node:child_process';
import { access, constants } from 'node:fs/promises';
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
  await install(program);

  const installed = await findOnPath(names);
  if (!installed) throw new Error(`apt-get installed ${packages}, but ${title} is not on the PATH.`);
  return installed;
}

const orElse = ({ alternative }: Pick<Program, 'alternative'>) => (alternative ? `, or ${alternative}` : '');

/**
 * Debian packages run policy-rc.d before they start a service; exit code 101 forbids the start. A machine, such as a
 * container image, may have its own.
 */
const INSTALL = `
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  trap "rm -f $policy" EXIT
  printf '#!/bin/sh\\nexit 101\\n' >$policy && chmod 755 $policy
fi
apt-get -qq update
apt-get -qq install -y --no-install-recommends "$@"`;

/** One at a time, because several test files may install packages. */
async function install({ aptPackages, ...program }: Program): Promise<void> {
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  const command = ['/var/lock/opm-tests-install', 'sh', '-ec', INSTALL, 'sh', ...aptPackages];
  await promisify(execFile)('flock', command, { env, maxBuffer: 1 << 24 }).catch((cause) => {
    throw new Error(`apt-get could not install ${aptPackages.join(' ')}: install it by hand${orElse(program)}.`, {
      cause,
    });
  });
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
