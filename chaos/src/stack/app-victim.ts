import { type AppName, startApp, type TestApp } from '@opm/testkit';
import type { HostShim } from './host-shim.js';
import type { Host } from './victim.js';

export type AppVictim = Host & {
  /** Whether it says so itself, in time. */
  isReady(): Promise<boolean>;
  /** 0 while it does not say. */
  readMetric(name: string): Promise<number>;
};

type Options = {
  name: string;
  kind: AppName;
  /** With its ports. */
  env: NodeJS.ProcessEnv;
  shim: HostShim;
  /** Hears of an end that nobody has asked for, and of one that was asked for and went wrong. */
  onBadEnd: (what: string) => void;
  /** Gets what a process has written, when it has ended. */
  onOutput: (name: string, output: string) => void;
};

/** It may have to wait for its stores, which may be away for a while. */
const START_TIMEOUT_MS = 180_000;
/** Much longer than it gives itself. */
const END_TIMEOUT_MS = 120_000;
const READY_TIMEOUT_MS = 10_000;

export function createAppVictim({ name, kind, env, shim, onBadEnd, onOutput }: Options): AppVictim {
  let app: TestApp | undefined;

  async function start(): Promise<void> {
    if (app) return;
    const started = await startApp(kind, { ...env, ...shim.env }, { timeoutMs: START_TIMEOUT_MS, detached: true });
    app = started;
    void started.exited.then(({ code, signal }) => {
      onOutput(name, started.output());
      if (app !== started) return;
      onBadEnd(`${name} ended by itself (${signal ?? `code ${code}`})`);
      app = undefined;
      start().catch((error: Error) => onBadEnd(`${name} did not come back: ${error.message}`));
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
        onBadEnd(`${name} did not end within ${END_TIMEOUT_MS / 1_000} s`);
        void ended.stop('SIGKILL');
      }, END_TIMEOUT_MS);
      const exit = await ended.stop(signal).finally(() => clearTimeout(timer));
      if (!isKilled && exit.code !== 0) {
        onBadEnd(`${name} was asked to end and did not do it well (${exit.signal ?? `code ${exit.code}`})`);
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
