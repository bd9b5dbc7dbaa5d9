import Sequencer from '@jest/test-sequencer';

/**
 * Files that take a minute or more. Jest orders the others: files that failed or were slow the last time, then large
 * ones.
 */
const SLOWEST = [
  'tests/import-export.test.ts',
  'tests/outage.test.ts',
  'tests/model.test.ts',
  'tests/redis-cluster.test.ts',
  'tests/rolling-restart.test.ts',
  'tests/dead-letters.test.ts',
];

/** Starts the slowest files first, so that no CPU idles at the end of a run, not even of the first one. */
export default class SlowestFirst extends Sequencer {
  sort(tests) {
    const placeOf = ({ path }) => {
      const place = SLOWEST.findIndex((file) => path.endsWith(file));
      return place < 0 ? SLOWEST.length : place;
    };
    return super.sort(tests).sort((a, b) => placeOf(a) - placeOf(b));
  }
}
