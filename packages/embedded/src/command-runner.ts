import { execFile, spawn } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { type Binaries, isErrno, type Layout } from './binaries.js';

interface CommandResult {
  succeeded: boolean;
  /** Standard output and error, interleaved. */
  output: string;
}

/** Runs a program as the account of PostgreSQL. Resolves when it has exited. */
export type RunCommand = (program: string, args: readonly string[], input?: string) => Promise<CommandResult>;

interface Deps {
  account: Account | undefined;
  binaries: Binaries;
  layout: Layout;
  /** Added to the environment of this process. */
  env?: NodeJS.ProcessEnv | undefined;
}

/**
 * Under a private directory such as /root (mode 700), the account cannot reach the programs or the data. Only then does
 * it keep one of these capabilities. The first grants less; containers often withhold it, so the second is the
 * fallback.
 */
const CAPABILITIES = ['dac_read_search', 'dac_override'];

export async function createCommandRunner({ account, binaries, layout, env: given }: Deps): Promise<RunCommand> {
  const env = { ...process.env, ...given, LC_ALL: 'C', HOME: dirname(layout.dataDir) };
  if (!account) return (program, args, input) => execute(program, args, { env }, input);

  // The account may not be able to reach root's TMPDIR.
  const accountEnv = { ...env, TMPDIR: undefined };
  const plain: RunCommand = (program, args, input) =>
    execute(program, args, { env: accountEnv, uid: account.uid, gid: account.gid }, input);
  const privileged = CAPABILITIES.map((capability): RunCommand => {
    const prefix = dropPrivilegesExcept(capability, account);
    return (program, args, input) => execute('setpriv', [...prefix, program, ...args], { env: accountEnv }, input);
  });

  for (const run of [plain, ...privileged]) {
    if (await canReach(run, binaries.postgres, dirname(layout.dataDir))) return run;
  }
  throw new Error(
    `PostgreSQL refuses to run as root, and user ${account.uid} cannot reach ${binaries.postgres} or ${layout.dataDir}: ` +
      'install setpriv (package util-linux), start as an ordinary user, or move the checkout out of the private directory.',
  );
}

async function canReach(run: RunCommand, program: string, directory: string): Promise<boolean> {
  try {
    return (await run('/bin/sh', ['-c', '"$0" --version && cd "$1"', program, directory])).succeeded;
  } catch (error) {
    if (isErrno(error, 'ENOENT', 'EPERM', 'EACCES')) return false;
    throw error;
  }
}

function dropPrivilegesExcept(capability: string, { uid, gid }: Account): string[] {
  const identity = ['--reuid', String(uid), '--regid', String(gid), '--clear-groups'];
  const sets = ['--inh-caps', '--ambient-caps', '--bounding-set'];
  // initdb checks with access(2) whether it may run the other programs. Without this bit, access(2) ignores
  // capabilities.
  const securebits = ['--securebits', '+no_setuid_fixup'];
  return [...identity, ...securebits, ...sets.flatMap((set) => [set, `-all,+${capability}`])];
}

interface ExecuteOptions {
  env: NodeJS.ProcessEnv;
  uid?: number;
  gid?: number;
}

function execute(
  program: string,
  args: readonly string[],
  options: ExecuteOptions,
  input?: string,
): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    // cwd is '/' because the account may not reach the current directory; all paths are absolute. The program runs in
    // its own process group, so Ctrl-C cannot leave an incomplete cluster.
    const child = spawn(program, args, { ...options, cwd: '/', windowsHide: true, detached: true });
    const chunks: Buffer[] = [];
    child.stdout.on('data', (chunk) => chunks.push(chunk));
    child.stderr.on('data', (chunk) => chunks.push(chunk));
    child.stdin.on('error', () => {}); // It exited without reading its input; its exit code decides.
    child.on('error', reject);
    child.on('close', (code) => resolve({ succeeded: code === 0, output: Buffer.concat(chunks).toString().trim() }));
    child.stdin.end(input);
  });
}

/** The unprivileged account that PostgreSQL runs as if this process is root. */
export interface Account {
  uid: number;
  gid: number;
}

const UNPRIVILEGED = ['nobody', 'postgres'];

/**
 * Chooses the account for PostgreSQL, which refuses to run as root: the owner of the data directory, or an account that
 * every system has. @returns undefined if this process is not root, or on Windows @throws Error if another user owns
 * the directory
 */
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
      // The account does not exist: try the next one.
    }
  }
  throw new Error(`PostgreSQL refuses to run as root, and there is no account ${UNPRIVILEGED.join(' or ')}: add one.`);
}

async function lookUpId(kind: '-u' | '-g', name: string): Promise<number> {
  const { stdout } = await promisify(execFile)('id', [kind, name]);
  return Number(stdout);
}
