import { execFile } from 'node:child_process';
import { access, constants, rm, writeFile } from 'node:fs/promises';
import { delimiter, join } from 'node:path';
import { promisify } from 'node:util';

export interface Program {
  /** For people, such as Redis. */
  title: string;
  /** What it may be called on the PATH, the best first. */
  names: readonly string[];
  /** What Debian calls the packages. */
  aptPackages: readonly string[];
  /** How to do without apt-get. */
  otherwise: string;
  /** What else can be done, completing "…, or". */
  alternative?: string | undefined;
}

/** Consulted by Debian's packages before they start the service they install; 101 means "do not". */
const SERVICE_POLICY = '/usr/sbin/policy-rc.d';

/** The path of a local program; root on Debian or Ubuntu gets it installed. Else throws the line to run. */
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
  // Debian has some servers where the PATH of an ordinary user does not look.
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
