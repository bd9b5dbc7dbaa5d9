import Sequencer from '@jest/test-sequencer';

/**
 * Files that take the longest. Jest orders the others: files that failed or were slow the last time, then large
 * ones.
 */
const SLOWEST = [
  'apps/console/test/pages.test.ts',
  'tests/redis-cluster.test.ts',
  'tests/outage.test.ts',
  'tests/activity.test.ts',
  'apps/worker/test/failures.test.ts',
  'apps/ingress/test/idempotency-repeats.test.ts',
  'apps/ingress/test/rate-limits.test.ts',
  'tests/hostile-input/batches.test.ts',
  'tests/hostile-input/compressed.test.ts',
  'tests/pipeline.test.ts',
  'packages/client/test/faults.test.ts',
  'packages/queue/test/clear-leftovers.test.ts',
  'tests/rolling-restart.test.ts',
  'tests/tls.test.ts',
  'apps/ingress/test/overload.test.ts',
  'apps/cli/test/audit.test.ts',
  'tests/import-export.test.ts',
  'tests/documented-commands.test.ts',
  'tests/dead-letters.test.ts',
  'tests/backup.test.ts',
  'apps/cli/test/operators.test.ts',
  'tests/come-and-go.test.ts',
  'apps/ingress/test/repeats-model.test.ts',
  'tests/clocks.test.ts',
  'tests/model.test.ts',
  'tests/pgbouncer.test.ts',
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
