import { execFile } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { promisify } from 'node:util';
import { isErrno } from './errno.js';
import type { Layout } from './layout.js';

/** The unprivileged account that PostgreSQL runs as when we are root. */
export interface Account {
  uid: number;
  gid: number;
}

const UNPRIVILEGED = ['nobody', 'postgres'];

/** PostgreSQL refuses to run as root: there it takes the owner of the data directory, or an account every system has. */
export async function chooseAccount({ dataDir }: Pick<Layout, 'dataDir'>): Promise<Account | undefined> {
  const ownUid = process.geteuid?.();
  if (ownUid === undefined) return undefined;

  const owner = await findOwner(dataDir);
  if (ownUid === 0) return owner && owner.uid !== 0 ? owner : findUnprivilegedAccount();
  if (owner && owner.uid !== ownUid) {
    throw new Error(`${dataDir} belongs to user ${owner.uid}: start as that user or as root, or delete the directory.`);
  }
  return undefined;
}

async function findOwner(directory: string): Promise<Account | undefined> {
  try {
    const { uid, gid } = await stat(directory);
    return { uid, gid };
  } catch (error) {
    if (isErrno(error, 'ENOENT')) return undefined;
    throw error;
  }
}

async function findUnprivilegedAccount(): Promise<Account> {
  for (const name of UNPRIVILEGED) {
    try {
      return { uid: await lookUpId('-u', name), gid: await lookUpId('-g', name) };
    } catch {
      // No such account: the next one may exist.
    }
  }
  throw new Error(`PostgreSQL refuses to run as root, and there is no account ${UNPRIVILEGED.join(' or ')}: add one.`);
}

async function lookUpId(kind: '-u' | '-g', name: string): Promise<number> {
  const { stdout } = await promisify(execFile)('id', [kind, name]);
  return Number(stdout);
}
