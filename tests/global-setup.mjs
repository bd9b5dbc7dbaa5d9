import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createDatabase, findChromium, provisionServers, removeLeftContainers, testRunId } from '@opm/testkit';
import { setUpEnvironment } from './set-up-environment.mjs';

const OPM = fileURLToPath(new URL('../apps/cli/bin/opm.js', import.meta.url));

/** One Postgres and one Redis for the run, with a migrated template that each test file's database is copied from. */
export default async function globalSetup({ testPathPatterns }) {
  // All tests need a browser: better it is missing now than in the middle. Those that are chosen look for it themselves.
  if (testPathPatterns.patterns.length === 0) await findChromium();
  setUpEnvironment();
  testRunId(); // before Jest's workers start, which may start containers, too
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

/** Jest skips its teardown on Ctrl-C, which does not reach Postgres by itself. */
function stopOnSignal(stop) {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    // Not once(): with no listener left, a library of Jest's would end the process before all is stopped.
    process.on(signal, () => stop().finally(() => process.exit(1)));
  }
}
