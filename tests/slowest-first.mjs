import Sequencer from '@jest/test-sequencer';

/** What takes a minute or more. Where nothing is known of earlier runs, Jest begins with the largest files. */
const SLOWEST = [
  'tests/chaos.test.ts',
  'tests/import-export.test.ts',
  'tests/outage.test.ts',
  'tests/model.test.ts',
  'tests/redis-cluster.test.ts',
  'tests/rolling-restart.test.ts',
  'tests/dead-letters.test.ts',
  'apps/cli/test/up.test.ts',
];

/** So that the run does not end with one processor waiting for the other. */
export default class SlowestFirst extends Sequencer {
  sort(tests) {
    const placeOf = ({ path }) => {
      const place = SLOWEST.findIndex((file) => path.endsWith(file));
      return place < 0 ? SLOWEST.length : place;
    };
    return super.sort(tests).sort((a, b) => placeOf(a) - placeOf(b));
  }
}
