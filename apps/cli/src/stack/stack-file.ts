import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readCommandLine } from '@opm/embedded';

/** Says which stack runs in a data folder; its owner alone may read it, for it holds the database's password. */
export type StackFile = { pid: number; databaseUrl?: string; queueEnv?: QueueEnv; url?: string };

/** The variables that say where its queue is, as they were when it was started. */
export type QueueEnv = { REDIS_URL?: string; REDIS_PREFIX?: string; QUEUE_SHARDS?: string };

export function toQueueEnv({ REDIS_URL = '', REDIS_PREFIX = '', QUEUE_SHARDS = '' }: NodeJS.ProcessEnv): QueueEnv {
  return { REDIS_URL, REDIS_PREFIX, QUEUE_SHARDS };
}

const fileIn = (dataDir: string) => join(dataDir, 'stack.json');

/** The stack that runs there now; a file that a killed one left behind counts for nothing. */
export async function readStackFile(dataDir: string): Promise<StackFile | undefined> {
  const stack = await readJsonFile<StackFile>(fileIn(dataDir));
  return stack && (await isOpmUp(stack.pid)) ? stack : undefined;
}

/** Takes the folder for this process. @returns the stack that has it already, if any */
export async function claimDataDir(dataDir: string): Promise<StackFile | undefined> {
  for (;;) {
    try {
      await writeFile(fileIn(dataDir), JSON.stringify({ pid: process.pid }), { mode: 0o600, flag: 'wx' });
      return undefined;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
      const running = await readStackFile(dataDir);
      if (running) return running;
      await removeStackFile(dataDir);
    }
  }
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

/** Process numbers are used again, after a reboot say, so the number alone proves nothing. */
async function isOpmUp(pid: number): Promise<boolean> {
  return pid !== process.pid && /\bopm(\.js)? up\b/.test(await readCommandLine(pid));
}
