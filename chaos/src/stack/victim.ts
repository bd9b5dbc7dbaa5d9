import { execFile } from 'node:child_process';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { type AppName, findCompiler, startApp, type TestApp } from '@opm/testkit';

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
type Host = Victim & { readonly shim: HostShim };

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

export type AppVictim = Host & {
  /** @param settings variables that differ until it ends */
  start(settings?: NodeJS.ProcessEnv): Promise<void>;
  /** Whether `/readyz` says so. */
  isReady(): Promise<boolean>;
  /** 0 if the process does not answer. */
  readMetric(name: string): Promise<number>;
};

type AppOptions = {
  name: string;
  kind: AppName;
  /** Includes its ports. */
  env: NodeJS.ProcessEnv;
  shim: HostShim;
  /** Called if the process exits unasked, or does not exit properly when asked to. */
  onBadExit: (what: string) => void;
  /** Called with the output of a process after it exits. */
  onOutput: (name: string, output: string) => void;
};

/** The process waits for its stores, which may be down for a while. */
const START_TIMEOUT_MS = 180_000;
/** Much longer than the process's own shutdown timeout. */
const END_TIMEOUT_MS = 120_000;
const READY_TIMEOUT_MS = 10_000;

export function createAppVictim({ name, kind, env, shim, onBadExit, onOutput }: AppOptions): AppVictim {
  let app: TestApp | undefined;

  async function start(settings?: NodeJS.ProcessEnv): Promise<void> {
    if (app) return;
    const started = await startApp(
      kind,
      { ...env, ...settings, ...shim.env },
      { timeoutMs: START_TIMEOUT_MS, detached: true },
    );
    app = started;
    void started.exited.then(({ code, signal }) => {
      onOutput(name, started.output());
      if (app !== started) return;
      onBadExit(`${name} exited by itself (${signal ?? `code ${code}`})`);
      app = undefined;
      start().catch((error: Error) => onBadExit(`${name} did not start again: ${error.message}`));
    });
  }

  return {
    name,
    shim,
    start,
    async end(signal) {
      const ended = app;
      app = undefined;
      if (!ended) return;
      let isKilled = signal === 'SIGKILL';
      const timer = setTimeout(() => {
        isKilled = true;
        onBadExit(`${name} did not exit within ${END_TIMEOUT_MS / 1_000} s`);
        void ended.stop('SIGKILL');
      }, END_TIMEOUT_MS);
      const exit = await ended.stop(signal).finally(() => clearTimeout(timer));
      if (!isKilled && exit.code !== 0) {
        onBadExit(`${name} did not exit properly when asked to (${exit.signal ?? `code ${exit.code}`})`);
      }
    },
    async freeze() {
      if (app) process.kill(app.pid, 'SIGSTOP');
    },
    async thaw() {
      if (app) process.kill(app.pid, 'SIGCONT');
    },
    async isReady() {
      const signal = AbortSignal.timeout(READY_TIMEOUT_MS);
      const answer = await fetch(`http://127.0.0.1:${env.INTERNAL_PORT}/readyz`, { signal });
      await answer.body?.cancel();
      return answer.ok;
    },
    readMetric: async (metric) => (await app?.readMetric(metric).catch(() => 0)) ?? 0,
  };
}
