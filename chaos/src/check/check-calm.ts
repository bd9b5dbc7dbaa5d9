import { request } from 'undici';
import type { AppVictim } from '../stack/app-victim.js';
import type { Stack } from '../stack/stack.js';
import type { Remains } from './remains.js';

/** Until it is worth saying that the stack does not come to rest. */
const TIMEOUT_MS = 5 * 60_000;
const ANSWER_TIMEOUT_MS = 60_000;
/** So many that each shard has some. */
const CUSTOMERS = 40;

type Answers = { customerId: string; statuses: number[][] };
type Report = (rule: 'answer' | 'left behind', what: string) => void;

/**
 * Where nothing is wrong any more, nothing excuses a 202 in the place of a 201, a claim that stays or a worker that does
 * nothing. So each worker has to do it alone. @throws Error where one does not, or a time without trouble never comes
 */
export async function checkCalm(stack: Stack, remains: Remains, report: Report): Promise<void> {
  for (const worker of stack.workers) {
    const others = stack.workers.filter((other) => other !== worker);
    await Promise.all(others.map((other) => other.end('SIGTERM')));
    await checkAlone(worker, stack, remains, report).catch((cause: Error) => {
      throw new Error(`with ${worker.name} alone: ${cause.message}`, { cause });
    });
    await Promise.all(others.map((other) => other.start()));
  }
}

/** A machine that is too busy is trouble, too: then the ingresses say so, and other customers have to do. */
async function checkAlone(worker: AppVictim, stack: Stack, remains: Remains, report: Report): Promise<void> {
  const { projectId } = stack.probing;
  const deadline = performance.now() + TIMEOUT_MS;
  for (let round = 1; performance.now() < deadline; round++) {
    await remains.untilCleared([projectId]);
    const unknown = await countUnknown(stack);
    const ids = Array.from({ length: CUSTOMERS }, (_customer, i) => `calm ${worker.name} ${round} ${i}`);
    const lives = await Promise.all(ids.map((customerId, i) => live(customerId, i, stack)));
    const isTroubled = lives.some(({ statuses }) => statuses.flat().some((status) => status === 0 || status === 503));
    await remains.drain();
    const [claims, waiting] = [await remains.readClaims([projectId]), await remains.countWaiting()];
    if (isTroubled || (await countUnknown(stack)) > unknown) continue;

    const wrong = lives.filter(({ statuses }) => JSON.stringify(statuses) !== JSON.stringify(EXPECTED));
    if (wrong.length > 0)
      report('answer', `${wrong.length} of ${CUSTOMERS} new customers: ${JSON.stringify(wrong[0])}`);
    const claimed = ids.filter((id) => claims.some(({ customerId }) => customerId === id));
    if (claimed.length > 0) report('left behind', `${claimed.length} claims of ${CUSTOMERS}, though all jobs are done`);
    if (waiting > 0) report('left behind', `${waiting} entries count as waiting, though all jobs are done`);
    return;
  }
  throw new Error(`the ingresses were never sure of what they answered in ${TIMEOUT_MS / 1_000} s`);
}

/**
 * Of the erasure of a customer whom nobody sent; of two entries at the same time, another one, an erasure, the entry that
 * brings the customer back, and two erasures.
 */
const EXPECTED = [[404], [201, 202], [202], [202], [201], [202], [404]];

async function live(customerId: string, turn: number, { urls, probing }: Stack): Promise<Answers> {
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
