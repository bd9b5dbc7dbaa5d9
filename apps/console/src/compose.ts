import { createEntryQueue, openDashboardQueues, toQueueConfig } from '@opm/queue';
import {
  bool,
  createThrottledWarning,
  type Env,
  PROCESS_ENV,
  type ProcessContext,
  port,
  str,
  wholeNumber,
} from '@opm/runtime';
import { createStore } from '@opm/store';
import { createConsoleApp, serveConsole } from './app.js';
import { createReplays } from './pages/change-dead-letters.js';
import { createPages } from './pages/pages.js';
import { createReads } from './reads.js';

/**
 * If a page needs longer, it shows an error and the reader tries again. PostgreSQL ends a slow statement before it
 * counts as unreachable.
 */
const STORE_OPTIONS = { statementTimeoutMs: 5_000, answerTimeoutMs: 5_500, connectTimeoutMs: 5_000 };

const REFRESH_MS = 5_000;

/** Creates the objects of the console and passes each its dependencies. */
export async function compose(context: ProcessContext<ConsoleConfig>): Promise<void> {
  const { config, logger, health, signal, onClose } = context;

  const toStore = (poolSize: number) =>
    createStore({ databaseUrl: config.DATABASE_URL, applicationName: 'opm-console', poolSize, ...STORE_OPTIONS });
  // Separate connections, so that slow pages do not delay logins.
  const [store, access] = [toStore(3), toStore(2)];
  onClose('store', store.close);
  onClose('access', access.close);
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
  const refresh = () => void reads.refresh().catch(() => undefined); // the page that needs the data reports the error
  refresh();
  const refreshing = setInterval(refresh, REFRESH_MS);
  onClose('refreshing', () => clearInterval(refreshing));
  const replays = createReplays({ store, queue, shards, signal, logger });
  const app = createConsoleApp({
    queues: dashboard.queues,
    store: access,
    password: config.CONSOLE_PASSWORD,
    showData,
    readOnly: config.CONSOLE_READ_ONLY,
    logger,
    trustedProxies: config.TRUSTED_PROXIES,
    projectNamesOf: reads.projectNames,
    pages: createPages({ store, queue, shards, reads, replays, showData }),
  });
  const server = await serveConsole({ app, host: config.CONSOLE_HOST, port: config.CONSOLE_PORT });
  onClose('server', server.close);
  logger.info({ port: server.port, readOnly: config.CONSOLE_READ_ONLY }, 'console is up');
}

export const CONSOLE_ENV = {
  ...PROCESS_ENV,
  CONSOLE_HOST: str({ default: undefined, desc: 'address to listen on; all addresses if not set' }),
  CONSOLE_PORT: port({ default: 3001, desc: 'port of the console' }),
  INTERNAL_PORT: port({ default: 9402, desc: 'port of /livez, /readyz and /metrics' }),
  CONSOLE_PASSWORD: str({ desc: 'password of the console; there is no default' }),
  CONSOLE_SHOW_DATA: bool({ default: false, desc: 'true shows what partners sent; otherwise it is masked' }),
  CONSOLE_READ_ONLY: bool({ default: true, desc: 'false lets operators make changes, as far as their roles allow' }),
  TRUSTED_PROXIES: wholeNumber({
    min: 0,
    max: 10,
    default: 0,
    desc: 'proxies in front, 0 to 10, that set X-Forwarded-For',
  }),
};

type ConsoleConfig = Env<typeof CONSOLE_ENV>;
