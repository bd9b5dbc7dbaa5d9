import Sequencer from '@jest/test-sequencer';

/** What takes a minute or more. Of the others, Jest begins with what failed or took long the last time, or else is large. */
const SLOWEST = [
  'tests/import-export.test.ts',
  'tests/outage.test.ts',
  'tests/model.test.ts',
  'tests/redis-cluster.test.ts',
  'tests/rolling-restart.test.ts',
  'tests/dead-letters.test.ts',
];

/** So that a run does not end with one processor waiting for the other, not even the first one. */
export default class SlowestFirst extends Sequencer {
  sort(tests) {
    const placeOf = ({ path }) => {
      const place = SLOWEST.findIndex((file) => path.endsWith(file));
      return place < 0 ? SLOWEST.length : place;
    };
    return super.sort(tests).sort((a, b) => placeOf(a) - placeOf(b));
  }
}
