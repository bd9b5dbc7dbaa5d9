import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** Says which stack runs in a data folder; its owner alone may read it, for it holds the database's password. */
export type StackFile = { pid: number; databaseUrl: string };

const fileIn = (dataDir: string) => join(dataDir, 'stack.json');

/** The stack that runs there now; a file that a killed one left behind counts for nothing. */
export async function readStackFile(dataDir: string): Promise<StackFile | undefined> {
  const stack = await readJsonFile<StackFile>(fileIn(dataDir));
  return stack && isAlive(stack.pid) ? stack : undefined;
}

export async function writeStackFile(dataDir: string, stack: StackFile): Promise<void> {
  await writeFile(fileIn(dataDir), JSON.stringify(stack), { mode: 0o600 });
}

export async function removeStackFile(dataDir: string): Promise<void> {
  await rm(fileIn(dataDir), { force: true });
}

export async function readJsonFile<T>(path: string): Promise<T | undefined> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as T;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT' || error instanceof SyntaxError) return undefined;
    throw error;
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
