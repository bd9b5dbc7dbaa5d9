import { fileURLToPath } from 'node:url';
import { WIDE_LIMITS } from '@opm/testkit';

const COMPILE_CACHE = fileURLToPath(new URL('../node_modules/.cache/opm-tests', import.meta.url));
const OPTIMIZE_LATE = fileURLToPath(new URL('./optimize-late.cjs', import.meta.url));

/**
 * Sets variables for all processes that tests start. Call it before Jest starts its workers. `areShort`: the processes
 * end before optimized code would pay off.
 */
export function setUpEnvironment({ areShort }) {
  // Hundreds of processes load the same modules: Node.js 22 and later compile them once.
  process.env.NODE_COMPILE_CACHE ??= COMPILE_CACHE;
  if (areShort)
    process.env.NODE_OPTIONS = [process.env.NODE_OPTIONS, `--require ${JSON.stringify(OPTIMIZE_LATE)}`]
      .join(' ')
      .trim();
  Object.assign(process.env, WIDE_LIMITS);
}
