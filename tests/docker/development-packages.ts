import { readFile } from 'node:fs/promises';

/** Packages that the lockfile marks as development only, and optional peers of packages that an image needs. */
export async function findDevelopmentPackages(): Promise<Set<string>> {
  const lockfile = await readFile(new URL('../../package-lock.json', import.meta.url), 'utf8');
  const packages = Object.entries<{ dev?: true }>(JSON.parse(lockfile).packages);
  const namesOf = (isDev: boolean) =>
    packages.filter(([, { dev = false }]) => dev === isDev).map(([path]) => toPackageName(path));
  const needed = new Set(namesOf(false));
  return new Set([...namesOf(true).filter((name) => !needed.has(name)), 'prisma', 'typescript']);
}

/** @param path for example apps/ingress/node_modules/lru-cache */
export const toPackageName = (path: string): string =>
  path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length);
