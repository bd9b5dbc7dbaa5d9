import { execFile } from 'node:child_process';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { findCompiler } from '@opm/testkit';

/** A process that faults affect. A call that asks for the current state does nothing. */
export type Victim = {
  readonly name: string;
  /** Resolves when the process has exited. */
  end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void>;
  /** Starts the process on its previous port; resolves when it is ready. */
  start(): Promise<void>;
  /** Suspends the process. */
  freeze(): Promise<void>;
  thaw(): Promise<void>;
};

/** A victim whose clock and disk faults can change. */
export type Host = Victim & { readonly shim: HostShim };

/** A store on a host. `start` also restarts a store that has exited by itself. */
export type StoreHost = Host & { answers(): Promise<boolean> };

/** Controls the wall clock and the disk that one process sees. */
export type HostShim = {
  /** Environment for the process. */
  readonly env: NodeJS.ProcessEnv;
  /** @param aheadMs how far the clock is ahead of the real one, in ms; negative if behind */
  setClock(aheadMs: number): Promise<void>;
  /** Whether writes that make a file longer fail. */
  setDiskFull(isFull: boolean): Promise<void>;
};

/** Creates the shim of a process by its name. Does nothing without LD_PRELOAD, which only Linux has. */
export type CreateShim = (name: string) => Promise<HostShim>;

const SOURCE = fileURLToPath(new URL('../../native/host-shim.c', import.meta.url));
const NS_PER_MS = 1_000_000n;

export const CAN_SHIM = process.platform === 'linux';

/**
 * Compiles the shim into that directory, which the servers must be able to read.
 * @throws Error if there is no compiler
 */
export async function createHostShims(directory: string): Promise<CreateShim> {
  if (!CAN_SHIM) return async () => ({ env: {}, setClock: async () => {}, setDiskFull: async () => {} });
  const library = join(directory, 'host-shim.so');
  await promisify(execFile)(await findCompiler(), ['-shared', '-fPIC', '-O2', '-o', library, SOURCE]);

  return async (name) => {
    const path = join(directory, `${name.replaceAll(' ', '-')}.shim`);
    const file = await open(path, 'w', 0o644);
    const set = async (index: number, value: bigint) => {
      const bytes = Buffer.alloc(8);
      bytes.writeBigInt64LE(value);
      await file.write(bytes, 0, bytes.length, index * bytes.length);
    };
    await set(1, 0n);
    return {
      env: { LD_PRELOAD: library, OPM_CHAOS_CONTROL: path },
      setClock: (aheadMs) => set(0, BigInt(aheadMs) * NS_PER_MS),
      setDiskFull: (isFull) => set(1, isFull ? 1n : 0n),
    };
  };
}
