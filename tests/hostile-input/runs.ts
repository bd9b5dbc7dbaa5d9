import fc from 'fast-check';
import { search } from '../search.js';

const { FUZZ_RUNS, FUZZ_SEED } = process.env;

/** Whether this is `npm run fuzz`, which runs longer, and not `npm test`. */
export const isFuzzing = FUZZ_RUNS !== undefined;

/** Runs a property with each queue: `min` times, and up to ten times on a fast machine. */
export const explore = <Drawn>(property: fc.IAsyncProperty<Drawn>, min = 2): Promise<void> =>
  isFuzzing
    ? fc.assert(property, { numRuns: Number(FUZZ_RUNS), ...(FUZZ_SEED && { seed: Number(FUZZ_SEED) }) })
    : search(property, { min, max: 10, ms: 15_000 });

/** For p-map: few enough not to overload a slow machine. */
export const SOME_AT_ONCE = { concurrency: 20 };
