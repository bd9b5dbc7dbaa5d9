import { mkdir, realpath } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';

/** Where everything of one embedded server lives. */
export interface Layout {
  dataDir: string;
  cluster: string;
  passwordFile: string;
  logFile: string;
}

/** Resolves symlinks, so that one directory has one name: the running server is recognised by it. */
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
