const { FUZZ_RUNS, FUZZ_SEED } = process.env;

/** Whether this is `npm run fuzz`, which runs longer, and not `npm test`. */
export const isFuzzing = FUZZ_RUNS !== undefined;

/**
 * How many runs fast-check makes with each queue; most draw up to 40 bodies. It prints the seed and the path of a failure.
 */
export const RUNS = {
  numRuns: Number(FUZZ_RUNS ?? 10),
  ...(FUZZ_SEED ? { seed: Number(FUZZ_SEED) } : {}),
  ...(isFuzzing ? {} : { interruptAfterTimeLimit: 15_000 }),
};

/** For p-map: few enough not to overload a slow machine. */
export const SOME_AT_ONCE = { concurrency: 20 };
