import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import {
  createDatabase,
  findChromium,
  findPrometheus,
  provisionServers,
  removeLeftContainers,
  testRunId,
} from '@opm/testkit';
import { setUpEnvironment } from './set-up-environment.mjs';

const OPM = fileURLToPath(new URL('../apps/cli/bin/opm.js', import.meta.url));

/** Starts one PostgreSQL and one Redis for the run, and creates the migrated template of the test files' databases. */
export default async function globalSetup({ testPathPatterns }) {
  // The full run needs a browser and Prometheus, so a missing one fails the run at once. Selected tests look for them
  // themselves.
  if (testPathPatterns.patterns.length === 0) {
    await findChromium();
    await findPrometheus('prometheus');
  }
  setUpEnvironment({ areShort: true });
  testRunId(); // Must run before Jest's workers start, because they may start containers too.
  const provisioning = provisionServers();
  stopOnSignal(() => provisioning.then(({ stop }) => stop()).finally(removeLeftContainers));
  const servers = await provisioning;
  globalThis.stopTestServers = servers.stop;
  try {
    const template = await createDatabase({ adminUrl: servers.databaseUrl });
    globalThis.stopTestServers = () => template.drop().finally(servers.stop);
    await promisify(execFile)(process.execPath, [OPM, 'migrate'], {
      env: { ...process.env, DATABASE_URL: template.url },
    });
    process.env.OPM_TEST_ADMIN_URL = servers.databaseUrl;
    process.env.OPM_TEST_TEMPLATE = template.name;
    process.env.OPM_TEST_REDIS_URL = servers.redisUrl;
  } catch (error) {
    await globalThis.stopTestServers();
    throw error;
  }
}

/** Stops the servers on Ctrl-C: Jest then skips its teardown, and the signal does not reach PostgreSQL. */
function stopOnSignal(stop) {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    // Not once(): without a listener, a library of Jest would end the process before the servers are stopped.
    process.on(signal, () => stop().finally(() => process.exit(1)));
  }
}
