import { setTimeout as delay } from 'node:timers/promises';
import { TestEnvironment } from 'jest-environment-node';

const GRACE_MS = 30_000;
const POLL_INTERVAL_MS = 20;

/**
 * Fails a test file that leaves a socket, server, timer or child process open that would keep the process alive. Jest
 * itself only kills such a worker and prints a warning.
 */
export default class LeakCheckEnvironment extends TestEnvironment {
  constructor(config, context) {
    super(config, context);
    this.testPath = context.testPath;
  }

  async setup() {
    await super.setup();
    // Node opens these on first use, for example when a library checks for a terminal; they are not leaks.
    void [process.stdin, process.stdout, process.stderr];
    this.baseline = countResources();
  }

  handleTestEvent({ name }) {
    if (name === 'test_fn_failure' || name === 'hook_failure') this.hasFailed = true;
  }

  async teardown() {
    const leaks = await waitForQuiet(this.baseline);
    await super.teardown();
    // A failed test may leave resources open, and its own message is more useful.
    if (leaks.length > 0 && !this.hasFailed) throw new Error(`${this.testPath} leaves open: ${leaks.join(', ')}`);
  }
}

/** Waits until closing resources are gone, which takes some turns of the event loop. */
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

/** Counts the resources that keep the event loop alive, by type. */
function countResources() {
  const counts = new Map();
  for (const type of process.getActiveResourcesInfo()) counts.set(type, (counts.get(type) ?? 0) + 1);
  return counts;
}
