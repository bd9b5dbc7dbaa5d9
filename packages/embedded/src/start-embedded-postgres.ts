import { readFile } from 'node:fs/promises';
import { locateBinaries, prepareLayout } from './binaries.js';
import { initialiseCluster, isInitialised } from './cluster.js';
import { chooseAccount, createCommandRunner } from './command-runner.js';
import { startServer, stopServer } from './server.js';

export interface EmbeddedPostgresOptions {
  /** Created on first use. Holds only the cluster, its password and its log. */
  dataDir: string;
  /** Default: a free port. */
  port?: number;
  /** Settings that override the durable defaults, such as `fsync=off`. */
  postgresFlags?: readonly string[];
  /** Added to the environment of this process. */
  env?: NodeJS.ProcessEnv | undefined;
}

export interface EmbeddedPostgres {
  /** URL of the database `opm`, with the role `opm`, a superuser. */
  url: string;
  port: number;
  /** Pid of the postmaster. */
  pid: number;
  /** Ends all sessions and resolves when the server has ended. Safe to call twice, or after a crash. */
  stop(): Promise<void>;
}

/**
 * Starts PostgreSQL on a loopback port. First stops a server that already runs on the data directory, such as that of a
 * killed process: callers that may run twice must lock the directory. @throws Error with the end of the server's log
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
