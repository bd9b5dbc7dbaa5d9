import { createEntryQueue, openDashboardQueues, toQueueConfig } from '@opm/queue';
import { bool, createThrottledWarning, type Env, type ProcessContext, port, STORE_ENV, str } from '@opm/runtime';
import { createStore } from '@opm/store';
import { createConsoleApp, serveConsole } from './app.js';
import { createPages } from './pages/pages.js';
import { createReads } from './reads.js';
import { createReplays } from './replays.js';

/** A page that needs longer shows an error; its reader tries again. */
const STORE_OPTIONS = { poolSize: 3, statementTimeoutMs: 10_000, connectTimeoutMs: 5_000 };

/** Creates the objects of the console and passes each its dependencies. */
export async function compose(context: ProcessContext<ConsoleConfig>): Promise<void> {
  const { config, logger, health, signal, onClose } = context;

  const store = createStore({
    databaseUrl: config.DATABASE_URL,
    applicationName: 'opm-console',
    ...STORE_OPTIONS,
  });
  onClose('store', store.close);
  const queueOptions = {
    ...toQueueConfig(config),
    signal,
    onError: createThrottledWarning(logger, 'queue connection'),
  };
  const [dashboard, queue] = await Promise.all([
    openDashboardQueues(queueOptions),
    createEntryQueue({ ...queueOptions, onlyReadsShards: true }),
  ]);
  onClose('queue', queue.close);
  onClose('queues', dashboard.close);
  health.queue = dashboard.check;

  const showData = config.CONSOLE_SHOW_DATA;
  const shards = config.QUEUE_SHARDS;
  const reads = createReads({ store, queue, shards });
  const replays = createReplays({ store, queue, shards, signal });
  const app = createConsoleApp({
    queues: dashboard.queues,
    store,
    password: config.CONSOLE_PASSWORD,
    showData,
    readOnly: config.CONSOLE_READ_ONLY,
    logger,
    projectNamesOf: reads.projectNames,
    pages: createPages({ store, reads, replays, showData, projects: store.projects, queue, shards }),
  });
  const server = await serveConsole({ app, host: config.CONSOLE_HOST, port: config.CONSOLE_PORT });
  onClose('server', server.close);
  logger.info({ port: server.port, readOnly: config.CONSOLE_READ_ONLY }, 'dashboard is up');
}

export const CONSOLE_ENV = {
  ...STORE_ENV,
  CONSOLE_HOST: str({ default: undefined, desc: 'address to listen on; all addresses if not set' }),
  CONSOLE_PORT: port({ default: 3001, desc: 'port of the Bull dashboard' }),
  INTERNAL_PORT: port({ default: 9402, desc: 'port of /livez, /readyz and /metrics' }),
  CONSOLE_PASSWORD: str({ desc: 'password of the dashboard; there is no default' }),
  CONSOLE_SHOW_DATA: bool({ default: false, desc: 'true shows what partners sent; otherwise it is masked' }),
  CONSOLE_READ_ONLY: bool({ default: true, desc: 'false lets operators retry and promote jobs and pause queues' }),
};

type ConsoleConfig = Env<typeof CONSOLE_ENV>;
