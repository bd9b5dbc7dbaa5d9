import { fileURLToPath } from 'node:url';

const COMPILE_CACHE = fileURLToPath(new URL('../node_modules/.cache/opm-tests', import.meta.url));

/** For all processes that tests start; to be called before Jest starts those that run the tests. */
export function setUpEnvironment() {
  // Hundreds of processes load the same modules: Node.js 22 and later compile them once.
  process.env.NODE_COMPILE_CACHE ??= COMPILE_CACHE;
  // That a machine is busy is not what is tested.
  process.env.EVENT_LOOP_MAX_DELAY_MS = '60000';
  process.env.LOOKUP_TIMEOUT_MS = '500';
}
