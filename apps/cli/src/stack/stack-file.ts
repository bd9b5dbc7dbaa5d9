import { randomUUID } from 'node:crypto';
import { link, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { readCommandLine } from '@opm/embedded';
import { toUserError } from '../user-error.js';

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
  const file = fileIn(dataDir);
  const own = await writeAside(file, { pid: process.pid });
  try {
    for (;;) {
      // Whole from its first moment on: half of one would be taken for that of a stack that is gone.
      if (await isDone(link(own, file), 'EEXIST')) return undefined;
      const running = await readStackFile(dataDir);
      if (running) return running;
      await removeStale(file);
    }
  } finally {
    await rm(own, { force: true });
  }
}

/** Two may find the same stale file, and one have claimed the folder by the time that the other takes the file away. */
async function removeStale(file: string): Promise<void> {
  const aside = nameAside(file);
  if (!(await isDone(rename(file, aside), 'ENOENT'))) return;
  const stack = await readJsonFile<StackFile>(aside);
  if (stack && (await isOpmUp(stack.pid))) await isDone(link(aside, file), 'EEXIST');
  await rm(aside);
}

export async function writeStackFile(dataDir: string, stack: StackFile): Promise<void> {
  const file = fileIn(dataDir);
  const aside = await writeAside(file, stack);
  await rename(aside, file).finally(() => rm(aside, { force: true }));
}

/** Only where it is this process's own. */
export async function removeStackFile(dataDir: string): Promise<void> {
  const stack = await readJsonFile<StackFile>(fileIn(dataDir));
  if (stack?.pid === process.pid) await rm(fileIn(dataDir), { force: true });
}

const nameAside = (file: string) => `${file}.${randomUUID()}`;

async function writeAside(file: string, stack: StackFile): Promise<string> {
  const aside = nameAside(file);
  await writeFile(aside, JSON.stringify(stack), { mode: 0o600, flag: 'wx' });
  return aside;
}

/** False where it fails for that reason. */
function isDone(call: Promise<void>, unless: 'EEXIST' | 'ENOENT'): Promise<boolean> {
  return call.then(
    () => true,
    (error: NodeJS.ErrnoException) => {
      if (error.code === unless) return false;
      throw error;
    },
  );
}

export async function readJsonFile<T>(path: string): Promise<T | undefined> {
  try {
    return JSON.parse(await readFile(path, 'utf8')) as T;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT' || error instanceof SyntaxError) return undefined;
    throw toUserError(error, `${path} cannot be read`);
  }
}

/** Process numbers are used again, after a reboot say, so the number alone proves nothing. */
async function isOpmUp(pid: number): Promise<boolean> {
  return pid !== process.pid && /\bopm(\.js)? up\b/.test(await readCommandLine(pid));
}
