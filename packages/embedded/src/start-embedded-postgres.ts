import { readFile } from 'node:fs/promises';
import { chooseAccount } from './account.js';
import { locateBinaries } from './binaries.js';
import { initialiseCluster, isInitialised } from './cluster.js';
import { createCommandRunner } from './command-runner.js';
import { prepareLayout } from './layout.js';
import { startServer, stopServer } from './server.js';

export interface EmbeddedPostgresOptions {
  /** Made on first use; holds the cluster, its password and its log, and nothing else. */
  dataDir: string;
  /** A free one where it is not given. */
  port?: number;
  /** Settings on top of the durable defaults, such as `fsync=off`. */
  postgresFlags?: readonly string[];
  /** On top of the environment of this process. */
  env?: NodeJS.ProcessEnv | undefined;
}

export interface EmbeddedPostgres {
  /** The database `opm`, as its owner `opm`, who is the superuser too. */
  url: string;
  port: number;
  /** Of the process whose children do the work. */
  pid: number;
  /** Ends all sessions and returns once the server is gone. Safe to call twice, or after a crash. */
  stop(): Promise<void>;
}

/**
 * Starts PostgreSQL on a loopback port. A server that a killed process left on the data directory is stopped first,
 * so a caller that may run twice guards the directory itself. Throws one sentence with the end of the server's log.
 */
export async function startEmbeddedPostgres(options: EmbeddedPostgresOptions): Promise<EmbeddedPostgres> {
  const layout = await prepareLayout(options.dataDir);
  const binaries = await locateBinaries();
  const account = await chooseAccount(layout);
  const run = await createCommandRunner({ account, binaries, layout, env: options.env });
  const installation = { account, binaries, layout, run };

  if (await isInitialised(layout)) await stopServer(installation);
  else await initialiseCluster(installation);

  const { port, pid } = await startServer(installation, options);
  const password = await readFile(layout.passwordFile, 'utf8');
  let stopped: Promise<void> | undefined;
  return {
    url: `postgresql://opm:${password}@127.0.0.1:${port}/opm`,
    port,
    pid,
    stop: () => {
      stopped ??= stopServer(installation);
      return stopped;
    },
  };
}
