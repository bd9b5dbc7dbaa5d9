import { query } from '@opm/testkit';
import { type Sent, toCustomer } from '../load/ledger.js';
import type { Stack } from '../stack/stack.js';
import { checkCalm } from './check-calm.js';
import { checkClaims } from './check-claims.js';
import type { Finding, StackRule } from './finding.js';
import { openRemains } from './remains.js';

type Options = {
  customers: Map<string, Sent[]>;
  /** When the last fault was over, in milliseconds on the ledger's clock; missing where it is not. */
  quietSince: number | undefined;
  onDoing: (what: string) => void;
  onFound: (finding: Finding) => void;
};

/**
 * When the load is over: all jobs come to an end, what they leave is what they may, it is cleared away, and what comes
 * then is as it should be. @throws Error where it is not worth going on
 */
export async function checkRest(stack: Stack, { customers, quietSince, onDoing, onFound }: Options): Promise<void> {
  const projectIds = stack.partners.map(({ projectId }) => projectId);
  const report = (rule: StackRule, what: string) => onFound({ rule, at: performance.now(), what });
  const remains = await openRemains(stack.queue);
  try {
    await remains.drain();
    const claims = (await remains.readClaims(projectIds)).map(({ projectId, customerId }) =>
      toCustomer(projectIds.indexOf(projectId), customerId),
    );
    for (const finding of checkClaims(new Set(claims), customers, quietSince)) onFound(finding);
    onDoing('waiting for what killed processes left to be cleared away');
    await remains.untilCleared([...projectIds, stack.probing.projectId]);
    onDoing('each worker alone, without faults');
    await checkCalm(stack, remains, report);
    const letters = await countDeadLetters(stack.postgres.url);
    if (letters > 0) report('left behind', `${letters} dead letters`);
  } finally {
    await remains.close();
  }
}

async function countDeadLetters(databaseUrl: string): Promise<number> {
  const [row] = await query<{ letters: number }>(databaseUrl, 'SELECT count(*)::int AS letters FROM dead_letters');
  return row?.letters ?? Number.NaN;
}
