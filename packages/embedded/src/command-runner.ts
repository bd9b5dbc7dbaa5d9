import { spawn } from 'node:child_process';
import { dirname } from 'node:path';
import type { Account } from './account.js';
import type { Binaries } from './binaries.js';
import { isErrno } from './errno.js';
import type { Layout } from './layout.js';

export interface CommandResult {
  succeeded: boolean;
  /** Standard output and error, interleaved. */
  output: string;
}

/** Runs a program as the account chosen for PostgreSQL, and resolves when it has exited. */
export type RunCommand = (program: string, args: readonly string[], input?: string) => Promise<CommandResult>;

interface Deps {
  account: Account | undefined;
  binaries: Binaries;
  layout: Layout;
  /** On top of the environment of this process. */
  env?: NodeJS.ProcessEnv | undefined;
}

/**
 * Below a private directory such as /root (mode 700) the account could not reach the programs or the data. Then, and only
 * then, it keeps one capability to pass through; containers often withhold the milder one, hence the second.
 */
const PASSAGES = ['dac_read_search', 'dac_override'];

export async function createCommandRunner({ account, binaries, layout, env: given }: Deps): Promise<RunCommand> {
  const env = { ...process.env, ...given, LC_ALL: 'C', HOME: dirname(layout.dataDir) };
  if (!account) return (program, args, input) => execute(program, args, { env }, input);

  // Root's own TMPDIR may be out of the account's reach.
  const accountEnv = { ...env, TMPDIR: undefined };
  const plain: RunCommand = (program, args, input) =>
    execute(program, args, { env: accountEnv, uid: account.uid, gid: account.gid }, input);
  const privileged = PASSAGES.map((capability): RunCommand => {
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
  // initdb asks access(2) whether it may run its neighbours, which ignores capabilities without this bit.
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
    // The current directory may be out of the account's reach; every path given is absolute. In a group of its own: Ctrl-C
    // must not leave half of a cluster.
    const child = spawn(program, args, { ...options, cwd: '/', windowsHide: true, detached: true });
    const chunks: Buffer[] = [];
    child.stdout.on('data', (chunk) => chunks.push(chunk));
    child.stderr.on('data', (chunk) => chunks.push(chunk));
    child.stdin.on('error', () => {}); // It exited without reading; its exit code tells.
    child.on('error', reject);
    child.on('close', (code) => resolve({ succeeded: code === 0, output: Buffer.concat(chunks).toString().trim() }));
    child.stdin.end(input);
  });
}
