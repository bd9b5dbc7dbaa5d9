import { setTimeout as delay } from 'node:timers/promises';
import { TestEnvironment } from 'jest-environment-node';

const GRACE_MS = 30_000;
const POLL_INTERVAL_MS = 20;

/**
 * Fails a test file that leaves something running which would keep the process alive: a socket, server, timer or child.
 * Jest itself only kills such a worker, with a warning.
 */
export default class LeakCheckEnvironment extends TestEnvironment {
  constructor(config, context) {
    super(config, context);
    this.testPath = context.testPath;
  }

  async setup() {
    await super.setup();
    // Node opens these on first use, which is nobody's leak: some library asks whether they are terminals.
    void [process.stdin, process.stdout, process.stderr];
    this.baseline = countResources();
  }

  handleTestEvent({ name }) {
    if (name === 'test_fn_failure' || name === 'hook_failure') this.hasFailed = true;
  }

  async teardown() {
    const leaks = await waitForQuiet(this.baseline);
    await super.teardown();
    // A test that failed may well leave something open, and its own message says more.
    if (leaks.length > 0 && !this.hasFailed) throw new Error(`${this.testPath} leaves open: ${leaks.join(', ')}`);
  }
}

/** What is closing needs some turns of the event loop to be gone. */
async function waitForQuiet(baseline) {
  const deadline = performance.now() + GRACE_MS;
  for (;;) {
    const leaks = findLeaks(baseline, countResources());
    if (leaks.length === 0 || performance.now() > deadline) return leaks;
    await delay(POLL_INTERVAL_MS);
  }
}

function findLeaks(before, now) {
  return [...now].filter(([type, count]) => count > (before.get(type) ?? 0)).map(([type]) => type);
}

/** Only what keeps the event loop alive, by type. */
function countResources() {
  const counts = new Map();
  for (const type of process.getActiveResourcesInfo()) counts.set(type, (counts.get(type) ?? 0) + 1);
  return counts;
}
