import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { createDatabase, findChromium, provisionServers, removeLeftContainers, testRunId } from '@opm/testkit';

const OPM = fileURLToPath(new URL('../apps/cli/bin/opm.js', import.meta.url));
const COMPILE_CACHE = fileURLToPath(new URL('../node_modules/.cache/opm-tests', import.meta.url));

/** One Postgres and one Redis for the run, with a migrated template that each test file's database is copied from. */
export default async function globalSetup({ testPathPatterns }) {
  // All tests need a browser: better it is missing now than in the middle. Those that are chosen look for it themselves.
  if (testPathPatterns.patterns.length === 0) await findChromium();
  // Hundreds of processes load the same modules: Node.js 22 and later compile them once.
  process.env.NODE_COMPILE_CACHE ??= COMPILE_CACHE;
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
    // For all apps: that a machine is busy is not what is tested.
    process.env.EVENT_LOOP_MAX_DELAY_MS = '60000';
    process.env.LOOKUP_TIMEOUT_MS = '500';
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
