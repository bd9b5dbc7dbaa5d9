import { type EmbeddedPostgres, startEmbeddedPostgres } from '@opm/embedded';
import { findChildren, isRunning, query, waitFor } from '@opm/testkit';
import type { HostShim, StoreHost } from './victim.js';

export type PostgresVictim = StoreHost & { readonly url: string };

/** 120 connections are few enough to use up. */
const SETTINGS = ['max_connections=120', 'shared_buffers=128MB'];

/** Starts a durable PostgreSQL in that directory. */
export async function startPostgresVictim(dataDir: string, shim: HostShim): Promise<PostgresVictim> {
  const options = { dataDir, postgresFlags: SETTINGS, env: shim.env };
  let postgres: EmbeddedPostgres | undefined = await startEmbeddedPostgres(options);
  const { url, port } = postgres;

  /** Signals the server and the process of each connection. */
  async function signalAll(signal: NodeJS.Signals): Promise<void> {
    if (!postgres) return;
    for (const pid of [postgres.pid, ...(await findChildren(postgres.pid))]) {
      try {
        process.kill(pid, signal);
      } catch {
        // The process has exited meanwhile.
      }
    }
  }

  return {
    name: 'PostgreSQL',
    url,
    shim,
    async start() {
      if (postgres && !(await isRunning(postgres.pid))) postgres = undefined;
      postgres ??= await startEmbeddedPostgres({ ...options, port });
    },
    answers: () => query(url, 'SELECT 1').then(() => true),
    async end(signal) {
      const ended = postgres;
      postgres = undefined;
      if (!ended) return;
      if (signal === 'SIGTERM') return ended.stop();
      process.kill(ended.pid, 'SIGKILL');
      await waitFor(async () => !(await isRunning(ended.pid)), {
        description: 'PostgreSQL to exit',
        timeoutMs: 60_000,
      });
    },
    freeze: () => signalAll('SIGSTOP'),
    thaw: () => signalAll('SIGCONT'),
  };
}
