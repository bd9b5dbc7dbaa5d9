import { setFlagsFromString } from 'node:v8';
import { ignoreUnheardPgErrors } from '@opm/core';
import closeWithGrace from 'close-with-grace';
import pg from 'pg';
import { ConfigError, type Env, type EnvSpec, findRemoved, parseEnv, readSecretFiles } from './env.js';
import { type Health, type InternalServer, serveInternal } from './internal-server.js';
import { createLogger, type Logger } from './logger.js';
import { createMetrics, type Metrics } from './metrics.js';

export type ProcessContext<Config> = {
  config: Config;
  logger: Logger;
  metrics: Metrics;
  /** The checks of `/readyz`. `start` adds its own. */
  health: Health;
  /** Aborted when the process is told to stop, so that code that waits for a store gives up. */
  signal: AbortSignal;
  /** Registers how to release a resource. Releases run last in, first out. */
  onClose(name: string, release: () => Promise<void> | void): void;
};

type CommonEnv = { LOG_LEVEL: string; INTERNAL_PORT: number; INTERNAL_HOST: string; SHUTDOWN_TIMEOUT_MS: number };

/**
 * Runs a process from start to exit:
 * 1. Read the environment and the files of secrets, serve the internal port, call `start`, become ready.
 * 2. On SIGTERM or SIGINT, become unready and release all resources in reverse order. Exit with 0, or with 1 if that
 *    takes longer than SHUTDOWN_TIMEOUT_MS. An unhandled error does the same, and exits with 1.
 *
 * If the start fails, write one line to stderr, release all resources and exit with 1, within the same timeout.
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
  // If many connections open at once, V8 may learn from their long-lived objects to allocate those of requests in the
  // old generation, too, until the next full garbage collection. Minor collections then take four times as long, and
  // throughput drops by a quarter.
  setFlagsFromString('--no-allocation-site-pretenuring');
  ignoreUnheardPgErrors(pg.Client);
  const common = config as unknown as CommonEnv;
  const logger = createLogger({ name, level: common.LOG_LEVEL });
  const removed = findRemoved(env);
  if (removed.length > 0)
    logger.warn({ variables: removed }, 'these variables have no effect any more, see CHANGELOG.md');
  const metrics = createMetrics({ process: name });
  const health: Health = {};
  const abort = new AbortController();
  const releases: { name: string; release: () => Promise<void> | void }[] = [];
  let internal: InternalServer | undefined;
  let closed: Promise<void> | undefined;

  async function releaseAll(): Promise<void> {
    internal?.setUnready('is shutting down');
    abort.abort();
    for (let last = releases.pop(); last; last = releases.pop()) {
      try {
        await last.release();
      } catch (error) {
        logger.error({ err: error, resource: last.name }, 'failed to close a resource; closing the others');
      }
    }
  }
  // Runs once, even if the process is told to stop while it closes.
  const close = () => {
    closed ??= releaseAll();
    return closed;
  };

  closeWithGrace({ delay: common.SHUTDOWN_TIMEOUT_MS, logger: false }, async ({ signal, err }) => {
    // Without this, close-with-grace exits at a second error, in the middle of the shutdown.
    for (const event of ['uncaughtException', 'unhandledRejection'] as const) {
      process.removeAllListeners(event).on(event, (error) => {
        logger.error({ err: error }, 'unhandled error during shutdown; the shutdown continues');
      });
    }
    if (err) logger.fatal({ err }, 'unhandled error; stopping the process');
    else logger.info({ signal }, 'stopping');
    await close();
    logger.info('stopped');
  });

  // `opm up` started this process. If `opm up` is killed, nothing else stops it.
  if (process.channel) {
    process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
    process.channel.unref();
  }

  try {
    internal = await serveInternal({ host: common.INTERNAL_HOST, port: common.INTERNAL_PORT, health, metrics });
    releases.push({ name: 'internal server', release: internal.close });
    await start({
      config,
      logger,
      metrics,
      health,
      signal: abort.signal,
      onClose: (name, release) => releases.push({ name, release }),
    });
    if (!abort.signal.aborted) internal.setUnready(undefined);
  } catch (error) {
    if (abort.signal.aborted) return;
    console.error(`${name}: ${toLine(error, config)}`);
    logger.debug({ err: error }, 'start failed; exiting with code 1');
    setTimeout(() => process.exit(1), common.SHUTDOWN_TIMEOUT_MS);
    await close();
    process.exit(1);
  }
}

function readConfig<Spec extends EnvSpec>(name: string, env: NodeJS.ProcessEnv, spec: Spec): Env<Spec> | undefined {
  try {
    return parseEnv(readSecretFiles(env, Object.keys(spec)), spec);
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
    return `permission denied for port ${port}; choose a port above 1023 with ${variable}`;
  return message;
}
