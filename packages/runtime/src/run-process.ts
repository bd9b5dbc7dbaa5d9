import { setFlagsFromString } from 'node:v8';
import closeWithGrace from 'close-with-grace';
import { ConfigError, type Env, type EnvSpec, parseEnv } from './env.js';
import type { Health } from './health.js';
import { type InternalServer, serveInternal } from './internal-server.js';
import { createLogger, type Logger } from './logger.js';
import { createMetrics, type Metrics } from './metrics.js';
import { outliveSessions } from './outlive-sessions.js';

export type ProcessContext<Config> = {
  config: Config;
  logger: Logger;
  metrics: Metrics;
  /** What `/readyz` checks; add to it as things come up. */
  health: Health;
  /** Aborted when the process is told to end: whatever waits for a store gives up. */
  signal: AbortSignal;
  /** Whoever acquires something says here how to release it. Releases run last in, first out. */
  onClose(what: string, release: () => Promise<void> | void): void;
};

type CommonEnv = { LOG_LEVEL: string; INTERNAL_PORT: number; INTERNAL_HOST: string; SHUTDOWN_TIMEOUT_MS: number };

/**
 * The life of a process: read the environment, serve the internal port, start; on SIGTERM or SIGINT turn unready,
 * release everything in reverse order and exit 0, or 1 if that takes longer than SHUTDOWN_TIMEOUT_MS. An error that nobody
 * handled ends it in the same way, with exit code 1.
 * What goes wrong at the start is one clear line on stderr and exit code 1, within the same time.
 */
export async function runProcess<Spec extends EnvSpec & { [Name in keyof CommonEnv]: EnvSpec[string] }>(options: {
  name: string;
  env: NodeJS.ProcessEnv;
  spec: Spec;
  start: (context: ProcessContext<Env<Spec>>) => Promise<void>;
}): Promise<void> {
  const { name, env, spec, start } = options;
  const config = readConfig(name, env, spec);
  if (!config) return;
  // When many connections open at once V8 may learn from their objects, which stay, to keep those of requests as well, up to
  // the next full collection: each of the small ones then takes four times as long, and a quarter of the throughput.
  setFlagsFromString('--no-allocation-site-pretenuring');
  outliveSessions();
  const common = config as unknown as CommonEnv;
  const logger = createLogger({ name, level: common.LOG_LEVEL });
  const metrics = createMetrics({ process: name });
  const health: Health = {};
  const abort = new AbortController();
  const releases: { what: string; release: () => Promise<void> | void }[] = [];
  let internal: InternalServer | undefined;
  let closed: Promise<void> | undefined;

  async function releaseAll(): Promise<void> {
    internal?.setUnready('is shutting down');
    abort.abort();
    for (let last = releases.pop(); last; last = releases.pop()) {
      try {
        await last.release();
      } catch (error) {
        logger.error({ err: error, what: last.what }, 'could not be closed');
      }
    }
  }
  /** Once, though a process may be told to end while it does so. */
  const close = () => {
    closed ??= releaseAll();
    return closed;
  };

  closeWithGrace({ delay: common.SHUTDOWN_TIMEOUT_MS, logger: false }, async ({ signal, err }) => {
    // Must not cut off what is under way.
    for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
      process.removeAllListeners(event).on(event, (error) => logger.error({ err: error }, 'nobody handled an error'));
    }
    if (err) logger.fatal({ err }, 'stopping after an error that nobody handled');
    else logger.info({ signal }, 'stopping');
    await close();
    logger.info('stopped');
  });

  // Started by `opm up`, which may be killed: then nobody is left to stop this process.
  if (process.channel) {
    process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
    process.channel.unref();
  }

  try {
    internal = await serveInternal({ host: common.INTERNAL_HOST, port: common.INTERNAL_PORT, health, metrics });
    releases.push({ what: 'internal server', release: internal.close });
    await start({
      config,
      logger,
      metrics,
      health,
      signal: abort.signal,
      onClose: (what, release) => releases.push({ what, release }),
    });
    if (!abort.signal.aborted) internal.setUnready(undefined);
  } catch (error) {
    if (abort.signal.aborted) return;
    console.error(`${name}: ${toLine(error, config)}`);
    logger.debug({ err: error }, 'could not start');
    setTimeout(() => process.exit(1), common.SHUTDOWN_TIMEOUT_MS);
    await close();
    process.exit(1);
  }
}

function readConfig<Spec extends EnvSpec>(name: string, env: NodeJS.ProcessEnv, spec: Spec): Env<Spec> | undefined {
  try {
    return parseEnv(env, spec);
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    for (const line of error.message.split('\n')) console.error(`${name}: ${line}`);
    process.exitCode = 1;
    return undefined;
  }
}

function toLine(error: unknown, config: object): string {
  const { code, port, message } = error as NodeJS.ErrnoException & { port?: number };
  const variable = Object.entries(config).find(([name, value]) => name.endsWith('PORT') && value === port)?.[0];
  if (code === 'EADDRINUSE') return `port ${port} is taken by another program; choose another one with ${variable}`;
  if (code === 'EACCES' && variable !== undefined)
    return `port ${port} may not be used by this user; choose one above 1023 with ${variable}`;
  return message;
}
