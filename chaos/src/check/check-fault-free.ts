import { query, WIDE_LIMITS } from '@opm/testkit';
import pMap from 'p-map';
import { request } from 'undici';
import { type SentEntry, toCustomer } from '../load/ledger.js';
import type { Stack } from '../stack/stack.js';
import type { AppVictim } from '../stack/victim.js';
import { checkClaims, type Finding, type StackRule } from './check-customer.js';
import { type InFlight, openInFlight } from './in-flight.js';

/** How long a worker may take to pass the check without trouble on the machine. */
const TIMEOUT_MS = 5 * 60_000;
const ANSWER_TIMEOUT_MS = 60_000;
/** Enough for every shard to get some. */
const CUSTOMERS = 40;

type Answers = { customerId: string; statuses: number[][] };
type Report = (rule: 'answer' | 'left behind', what: string) => void;

/**
 * Checks that each worker alone does everything that was promised. Without faults nothing excuses a 202 instead of a
 * 201, a claim that stays or a worker that hangs. The ingresses have wide limits, so that a slow machine can pass.
 * @throws Error if a worker does not pass
 */
async function checkFaultFree(stack: Stack, inFlight: InFlight, report: Report): Promise<void> {
  await Promise.all(stack.ingresses.map((ingress) => ingress.end('SIGTERM').then(() => ingress.start(WIDE_LIMITS))));
  for (const worker of stack.workers) {
    const others = stack.workers.filter((other) => other !== worker);
    await Promise.all(others.map((other) => other.end('SIGTERM')));
    await checkAlone(worker, stack, inFlight, report).catch((cause: Error) => {
      throw new Error(`with ${worker.name} alone: ${cause.message}`, { cause });
    });
    await Promise.all(others.map((other) => other.start()));
  }
}

/**
 * Repeats the check with new customers if the ingresses report trouble: a machine that is too busy counts as trouble,
 * and gets half as many customers at once in the next round.
 */
async function checkAlone(worker: AppVictim, stack: Stack, inFlight: InFlight, report: Report): Promise<void> {
  const { projectId } = stack.probing;
  const deadline = performance.now() + TIMEOUT_MS;
  for (let round = 1; performance.now() < deadline; round++) {
    await inFlight.waitUntilCleared([projectId]);
    const unknown = await countUnknown(stack);
    const ids = Array.from({ length: CUSTOMERS }, (_customer, i) => `fault-free ${worker.name} ${round} ${i}`);
    const concurrency = Math.max(1, CUSTOMERS >> (round - 1));
    const answers = await pMap(ids, (customerId, i) => sendLife(customerId, i, stack), { concurrency });
    const isTroubled = answers.some(({ statuses }) => statuses.flat().some((status) => status === 0 || status === 503));
    await inFlight.drain();
    const [claims, waiting] = [await inFlight.readClaims([projectId]), await inFlight.countWaiting()];
    if (isTroubled || (await countUnknown(stack)) > unknown) continue;

    const wrong = answers.filter(({ statuses }) => JSON.stringify(statuses) !== JSON.stringify(EXPECTED));
    if (wrong.length > 0)
      report(
        'answer',
        `unexpected statuses for ${wrong.length} of ${CUSTOMERS} new customers, such as ${JSON.stringify(wrong[0])}`,
      );
    const claimed = ids.filter((id) => claims.some(({ customerId }) => customerId === id));
    if (claimed.length > 0)
      report('left behind', `${claimed.length} of ${CUSTOMERS} customers have a claim although all jobs are done`);
    if (waiting > 0) report('left behind', `${waiting} entries count as waiting although all jobs are done`);
    return;
  }
  throw new Error(`the ingresses reported trouble in every round for ${TIMEOUT_MS / 1_000} s`);
}

/**
 * The expected statuses of: the erasure of an unknown customer; two simultaneous entries; one more entry; an erasure;
 * the entry that brings the customer back; two erasures.
 */
const EXPECTED = [[404], [201, 202], [202], [202], [201], [202], [404]];

async function sendLife(customerId: string, turn: number, { urls, probing }: Stack): Promise<Answers> {
  let sent = turn;
  const send = async (method: 'POST' | 'DELETE', id = customerId) => {
    const answer = await request(
      urls[sent++ % urls.length] + (method === 'POST' ? '/entry' : `/entry/${encodeURIComponent(id)}`),
      {
        method,
        headers: { 'x-api-key': probing.apiKey },
        ...(method === 'POST' && { body: JSON.stringify({ customerId: id, customerPhone: String(sent) }) }),
        headersTimeout: ANSWER_TIMEOUT_MS,
      },
    ).catch(() => undefined);
    await answer?.body.dump();
    return answer?.statusCode ?? 0;
  };
  return {
    customerId,
    statuses: [
      [await send('DELETE', `nobody ${customerId}`)],
      (await Promise.all([send('POST'), send('POST')])).toSorted(),
      [await send('POST')],
      [await send('DELETE')],
      [await send('POST')],
      [await send('DELETE')],
      [await send('DELETE')],
    ],
  };
}

async function countUnknown({ ingresses }: Stack): Promise<number> {
  const counts = await Promise.all(ingresses.map((ingress) => ingress.readMetric('opm_existence_unknown_total')));
  return counts.reduce((sum, count) => sum + count, 0);
}

type Options = {
  customers: Map<string, SentEntry[]>;
  /** When the stack had recovered from the last fault, in ms on the ledger's clock; undefined if it has not. */
  faultFreeSince: number | undefined;
  onStep: (what: string) => void;
  onFound: (finding: Finding) => void;
};

/**
 * Checks the stack after the load: all jobs finish, only claims that a fault explains are left, the workers remove
 * these, and each worker alone handles new customers as promised.
 * @throws Error if the stack does not get that far
 */
export async function checkDrained(
  stack: Stack,
  { customers, faultFreeSince, onStep, onFound }: Options,
): Promise<void> {
  const projectIds = stack.partners.map(({ projectId }) => projectId);
  const report = (rule: StackRule, what: string) => onFound({ rule, at: performance.now(), what });
  const inFlight = await openInFlight(stack.queue);
  try {
    await inFlight.drain();
    const claims = (await inFlight.readClaims(projectIds)).map(({ projectId, customerId }) =>
      toCustomer(projectIds.indexOf(projectId), customerId),
    );
    for (const finding of checkClaims(new Set(claims), customers, faultFreeSince)) onFound(finding);
    onStep('waiting for the workers to remove claims of killed processes');
    await inFlight.waitUntilCleared([...projectIds, stack.probing.projectId]);
    onStep('checking each worker alone, without faults');
    await checkFaultFree(stack, inFlight, report);
    const letters = await countDeadLetters(stack.postgres.url);
    if (letters > 0) report('left behind', `${letters} dead letters`);
  } finally {
    await inFlight.close();
  }
}

async function countDeadLetters(databaseUrl: string): Promise<number> {
  const [row] = await query<{ letters: number }>(
    databaseUrl,
    'SELECT count(*)::int AS letters FROM dead_letters WHERE resolution IS NULL',
  );
  return row?.letters ?? Number.NaN;
}
