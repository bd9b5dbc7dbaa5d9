import { toChunkData } from '@opm/queue';
import {
  type createPostgresBackend,
  FlowProducer,
  type Queue,
  UnrecoverableError,
  Worker,
  type WorkerOptions,
} from 'bullmq';

/** Values that no answer of the console may contain. */
export const PERSONAL = {
  customerId: 'customer-of-ada-4711',
  email: 'ada@example.com',
  phone: '+4915112345678',
  firstName: 'Augusta Ada',
  lastName: 'Lovelace',
  ip: '203.0.113.77',
};

const { customerId, ...fields } = PERSONAL;
const CHUNK = toChunkData({ entries: [{ projectId: 7, customerId, version: 1_700_000_000_000_001, fields }] });
const EVERYTHING = JSON.stringify(PERSONAL);

/**
 * Adds a job for each place where the board could show a value: 1 completed, 1 failed, 1 delayed, 3 waiting, 1 parent.
 */
export async function fillQueue(queue: Queue, factory?: typeof createPostgresBackend): Promise<void> {
  const worker = new Worker(queue.name, null, queue.opts as WorkerOptions, factory as undefined);
  const flows = new FlowProducer(queue.opts, factory as undefined);
  try {
    await queue.add('chunk', CHUNK);
    const completed = await worker.getNextJob('token');
    await completed.updateProgress({ done: EVERYTHING });
    await completed.moveToCompleted(EVERYTHING, 'token', false);

    await queue.add('chunk', CHUNK, { attempts: 2_147_483_647, backoff: { type: 'capped-exponential' } });
    const failed = await worker.getNextJob('token');
    await failed.log(`refused ${EVERYTHING}`);
    await failed.moveToFailed(
      new UnrecoverableError(`refused (${EVERYTHING})\n    at ${PERSONAL.email}`),
      'token',
      false,
    );

    await queue.add('chunk', CHUNK, { delay: 3_600_000 });
    await queue.add(PERSONAL.email, { old: PERSONAL }, { deduplication: { id: PERSONAL.email } });
    await queue.add('chunk', EVERYTHING);
    const child = { name: PERSONAL.lastName, queueName: queue.name, data: CHUNK };
    await flows.add({ ...child, children: [child] });
  } finally {
    await worker.close();
    await flows.close();
  }
}

/** Adds a job scheduler. It is separate because a scheduler adds jobs, which would change the counts. */
export async function addScheduler(queue: Queue): Promise<void> {
  const template = { name: PERSONAL.lastName, data: { personal: PERSONAL }, opts: { attempts: 3 } };
  await queue.upsertJobScheduler('nightly', { pattern: '0 0 1 1 *' }, template);
}
