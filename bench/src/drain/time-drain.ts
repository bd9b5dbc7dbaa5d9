import type { TestProcess } from '@opm/testkit';
import { type OpenQueue, waitUntilEmpty } from '../queues.js';

/** From the moment that the queue is opened until nothing is left in it. @returns seconds */
export async function timeDrain(opened: OpenQueue): Promise<number> {
  const start = performance.now();
  await opened.queue.resume();
  await waitUntilEmpty(opened);
  return (performance.now() - start) / 1_000;
}

export async function stopCleanly(worker: TestProcess): Promise<void> {
  const { code } = await worker.stop();
  if (code !== 0) throw new Error(`the worker ended with ${code}:\n${worker.output()}`);
}
