import { type Call, type CallOptions, toSignal } from './call.js';
import type { Answer, Transport } from './http-transport.js';
import type { OpenCalls } from './open-calls.js';
import { requestWithRetries } from './retries.js';

/** Gets what the path names, by a request of its own. */
export type Reader = (path: string, options?: CallOptions) => Promise<Answer>;

type Read = { path: string; call: Call<Answer> };

/** `maxInFlight` at a time, so that there is always a connection for what is sent. */
export function createReader(deps: { transport: Transport; calls: OpenCalls; maxInFlight: number }): Reader {
  const { transport, calls, maxInFlight } = deps;
  const waiting = new Set<Read>();
  let inFlight = 0;

  /** In the place of one that has ended. */
  function startNext(): void {
    for (const read of waiting) {
      waiting.delete(read);
      if (read.call.mayWait(0)) return void run(read);
    }
  }

  async function run({ path, call }: Read): Promise<void> {
    inFlight++;
    const options = { mayWait: call.mayWait.bind(call), signal: toSignal([call]) };
    await requestWithRetries(transport, { method: 'GET', path }, options).then(
      (answer) => call.resolve(answer),
      (error) => call.reject(error),
    );
    inFlight--;
    startNext();
  }

  return (path, { signal } = {}) =>
    calls.open(signal, (call: Call<Answer>) => {
      const read = { path, call };
      if (inFlight < maxInFlight) return void run(read);
      waiting.add(read);
      void call.settled.then(() => waiting.delete(read));
    });
}
