import { toWhole, withRedis } from '@opm/testkit';
import type { Redis } from 'ioredis';
import { project } from '../contenders.js';
import { warmUp } from '../load/run-load.js';
import { medianRatio, type Report, type Result, runsOf, toRateTable, type Verdict } from '../report.js';
import type { Servers } from '../servers.js';
import { runCounted } from './run-counted.js';

export type AppendfsyncOptions = { seconds: number; rounds: number };

const WHAT = 'new';
const POLICIES = ['everysec', 'always'] as const;

/** Measures the cost of having each entry on disk before its acknowledgement, instead of within a second. */
export async function measureAppendfsync(servers: Servers, options: AppendfsyncOptions): Promise<Report> {
  const name = 'appendfsync';
  const asked: Omit<Verdict, 'measured'> = {
    measure: 'acks/s with appendfsync always ÷ everysec',
    expected: { atLeast: 0.5 },
  };
  if (process.env.REDIS_URL) {
    const tables = 'Not measured: the settings of the Redis in `REDIS_URL` are not ours to change.';
    return { name, tables, verdicts: [{ ...asked, measured: undefined }] };
  }
  const results = await withRedis(servers.redisUrl, (redis) =>
    compare(servers, redis, options).finally(() => redis.config('SET', 'appendfsync', 'everysec')),
  );
  const [everysec = [], always = []] = POLICIES.map((policy) => runsOf(results, policy, WHAT));
  return {
    name,
    tables: toRateTable(results, 'always', 'acks/s'),
    verdicts: [{ ...asked, measured: medianRatio(always, everysec) }],
  };
}

async function compare(servers: Servers, redis: Redis, { seconds, rounds }: AppendfsyncOptions): Promise<Result[]> {
  const results = POLICIES.map((policy): Result => ({ contender: policy, what: WHAT, perSecond: [] }));
  for (let round = 1; round <= rounds; round++) {
    for (const { contender: policy, perSecond } of results) {
      await redis.config('SET', 'appendfsync', policy);
      await servers.inFreshPlace(async (place) => {
        const target = await project.start(place);
        await warmUp(target);
        const run = await runCounted(place, { target, seconds, customers: 'new' }, project.countAccepted.new);
        perSecond.push(run.requests / run.seconds);
        console.log(`round ${round}: appendfsync ${policy}: ${toWhole(run.requests / run.seconds)} acks/s`);
      });
    }
  }
  return results;
}
