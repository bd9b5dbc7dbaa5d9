const { FUZZ_RUNS, FUZZ_SEED } = process.env;

/** Whether this is `npm run fuzz`, which takes its time, and not `npm test`. */
export const isFuzzing = FUZZ_RUNS !== undefined;

/** How long fast-check draws. It prints the seed and the path of what fails. */
export const RUNS = {
  numRuns: Number(FUZZ_RUNS ?? 20),
  ...(FUZZ_SEED ? { seed: Number(FUZZ_SEED) } : {}),
  ...(isFuzzing ? {} : { interruptAfterTimeLimit: 15_000 }),
};

/** For p-map: so few that a slow machine is not overloaded by them. */
export const SOME_AT_ONCE = { concurrency: 20 };
