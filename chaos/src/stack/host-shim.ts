import { execFile } from 'node:child_process';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { findCompiler } from '@opm/testkit';

/** The wall clock and the disk of one process, as that process sees them. */
export type HostShim = {
  /** What the process must be started with. */
  readonly env: NodeJS.ProcessEnv;
  /** @param aheadMs milliseconds by which the clock is ahead of the real one; negative if it is behind */
  setClock(aheadMs: number): Promise<void>;
  /** From now on no file can grow, or it can again. */
  setDiskFull(isFull: boolean): Promise<void>;
};

/** A shim for each process, by its name. Does nothing where there is no LD_PRELOAD, which only Linux has. */
export type CreateShim = (name: string) => Promise<HostShim>;

const SOURCE = fileURLToPath(new URL('../../native/host-shim.c', import.meta.url));
const NS_PER_MS = 1_000_000n;

export const CAN_SHIM = process.platform === 'linux';

/** Compiles the shim into that directory, which the servers must be able to read. @throws Error where there is no compiler */
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
