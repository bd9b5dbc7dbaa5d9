import { setTimeout as delay } from 'node:timers/promises';
import type { AppVictim } from './stack/app-victim.js';
import type { Stack } from './stack/stack.js';

/** Bytes, the most that any process of the kind had. */
export type Memory = { ingress: number; worker: number };

const INTERVAL_MS = 1_000;

/** Asks every process for its memory each second, or as often as it answers. */
export function watchMemory({ ingresses, workers }: Stack): { memory: Memory; stop(): Promise<void> } {
  const memory: Memory = { ingress: 0, worker: 0 };
  const end = new AbortController();
  async function watch(kind: keyof Memory, app: AppVictim): Promise<void> {
    while (!end.signal.aborted) {
      memory[kind] = Math.max(memory[kind], await app.readMetric('process_resident_memory_bytes'));
      await delay(INTERVAL_MS, undefined, { signal: end.signal }).catch(() => {});
    }
  }
  const watching = Promise.all([
    ...ingresses.map((app) => watch('ingress', app)),
    ...workers.map((app) => watch('worker', app)),
  ]);
  return {
    memory,
    async stop() {
      end.abort();
      await watching;
    },
  };
}
