import { type Call, type CallOptions, toSignal } from './call.js';
import type { Answer, Transport } from './http-transport.js';
import type { OpenCalls } from './open-calls.js';
import { requestWithRetries } from './retries.js';

/** Gets what the path names, by a request of its own. */
export type Reader = (path: string, options?: CallOptions) => Promise<Answer>;

export function createReader(transport: Transport, calls: OpenCalls): Reader {
  async function run(path: string, call: Call<Answer>): Promise<void> {
    const options = { mayWait: call.mayWait.bind(call), signal: toSignal([call]) };
    await requestWithRetries(transport, { method: 'GET', path }, options).then(
      (answer) => call.resolve(answer),
      (error) => call.reject(error),
    );
  }

  return (path, { signal } = {}) => calls.open(signal, (call: Call<Answer>) => void run(path, call));
}
