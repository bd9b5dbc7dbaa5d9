import { type AppName, startApp, type TestApp } from '@opm/testkit';
import type { Host, HostShim } from './victim.js';

export type AppVictim = Host & {
  /** Whether `/readyz` says so. */
  isReady(): Promise<boolean>;
  /** 0 if the process does not answer. */
  readMetric(name: string): Promise<number>;
};

type Options = {
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

export function createAppVictim({ name, kind, env, shim, onBadExit, onOutput }: Options): AppVictim {
  let app: TestApp | undefined;

  async function start(): Promise<void> {
    if (app) return;
    const started = await startApp(kind, { ...env, ...shim.env }, { timeoutMs: START_TIMEOUT_MS, detached: true });
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
