import { openDashboardQueues, toQueueConfig } from '@opm/queue';
import { createSparseWarning, type ProcessContext } from '@opm/runtime';
import { createConsoleApp } from './app.js';
import type { ConsoleConfig } from './config.js';
import { serveConsole } from './server.js';

/** The console, put together by hand: who gets what stands here and nowhere else. */
export async function compose(context: ProcessContext<ConsoleConfig>): Promise<void> {
  const { config, logger, health, signal, onClose } = context;

  const dashboard = await openDashboardQueues({
    ...toQueueConfig(config),
    signal,
    onError: createSparseWarning(logger, 'queue connection'),
  });
  onClose('queues', dashboard.close);
  health.queue = dashboard.check;

  const app = createConsoleApp({
    queues: dashboard.queues,
    password: config.CONSOLE_PASSWORD,
    showData: config.CONSOLE_SHOW_DATA,
    readOnly: config.CONSOLE_READ_ONLY,
    logger,
  });
  const server = await serveConsole({ app, host: config.CONSOLE_HOST, port: config.CONSOLE_PORT });
  onClose('server', server.close);
  logger.info({ port: server.port, readOnly: config.CONSOLE_READ_ONLY }, 'dashboard is up');
}
