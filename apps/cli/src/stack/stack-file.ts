import { randomUUID } from 'node:crypto';
import { link, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { readCommandLine } from '@opm/embedded';
import { toUserError } from '../user-error.js';

/**
 * Describes the stack that runs in a data folder. Only the folder's owner can read the file, because it holds the
 * database's password.
 */
type StackFile = { pid: number; databaseUrl?: string; queueEnv?: QueueEnv; url?: string };

/** The variables that locate the stack's queue, with their values at its start. */
type QueueEnv = { REDIS_URL?: string; REDIS_PREFIX?: string; QUEUE_SHARDS?: string };

export function toQueueEnv({ REDIS_URL = '', REDIS_PREFIX = '', QUEUE_SHARDS = '' }: NodeJS.ProcessEnv): QueueEnv {
  return { REDIS_URL, REDIS_PREFIX, QUEUE_SHARDS };
}

const fileIn = (dataDir: string) => join(dataDir, 'stack.json');

/** Returns the stack that is running in the folder. Ignores the file of a killed stack. */
export async function readStackFile(dataDir: string): Promise<StackFile | undefined> {
  const stack = await readJsonFile<StackFile>(fileIn(dataDir));
  return stack && (await isOpmUp(stack.pid)) ? stack : undefined;
}

/** Claims the folder for this process. @returns the running stack that already holds it, if any */
export async function claimDataDir(dataDir: string): Promise<StackFile | undefined> {
  const file = fileIn(dataDir);
  const own = await writeTemporary(file, { pid: process.pid });
  try {
    for (;;) {
      // `link` creates the complete file at once. A half-written file would look like that of a killed stack.
      if (await isDone(link(own, file), 'EEXIST')) return undefined;
      const running = await readStackFile(dataDir);
      if (running) return running;
      await removeStale(file);
    }
  } finally {
    await rm(own, { force: true });
  }
}

/** Removes a stale file. Restores it if another process has claimed the folder since the file was found to be stale. */
async function removeStale(file: string): Promise<void> {
  const temporary = temporaryName(file);
  if (!(await isDone(rename(file, temporary), 'ENOENT'))) return;
  const stack = await readJsonFile<StackFile>(temporary);
  if (stack && (await isOpmUp(stack.pid))) await isDone(link(temporary, file), 'EEXIST');
  await rm(temporary);
}

export async function writeStackFile(dataDir: string, stack: StackFile): Promise<void> {
  const file = fileIn(dataDir);
  const temporary = await writeTemporary(file, stack);
  await rename(temporary, file).finally(() => rm(temporary, { force: true }));
}

/** Removes the file if it belongs to this process. */
export async function removeStackFile(dataDir: string): Promise<void> {
  const stack = await readJsonFile<StackFile>(fileIn(dataDir));
  if (stack?.pid === process.pid) await rm(fileIn(dataDir), { force: true });
}

const temporaryName = (file: string) => `${file}.${randomUUID()}`;

async function writeTemporary(file: string, stack: StackFile): Promise<string> {
  const temporary = temporaryName(file);
  await writeFile(temporary, JSON.stringify(stack), { mode: 0o600, flag: 'wx' });
  return temporary;
}

/** @returns false if the call fails with this code */
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

/** Checks the command line too, because the system reuses process ids, for example after a reboot. */
async function isOpmUp(pid: number): Promise<boolean> {
  return pid !== process.pid && /\bopm(\.js)? up\b/.test(await readCommandLine(pid));
}

/** Resolves a path in the repository, whatever the current directory is. */
export function inRepository(path: string): string {
  return fileURLToPath(new URL(`../../../../${path}`, import.meta.url));
}
