import { expect, test } from '@jest/globals';
import { BACKENDS, waitFor } from '@opm/testkit';
import { startMaintenance } from '../src/index.js';

const options = { shards: 1, signal: new AbortController().signal, onError: () => {} };

test.each(BACKENDS)(
  'on %s a task runs once per period however many processes there are, also after it has failed',
  async (_, createBackend) => {
    const backend = await createBackend();
    const runs: number[] = [];
    const failures: string[] = [];
    const start = () =>
      startMaintenance({
        ...backend,
        ...options,
        tasks: {
          count: {
            everyMs: 1_000,
            run: async () => {
              runs.push(Date.now());
              if (runs.length === 1) throw new Error('not now');
            },
          },
        },
        onDone: () => {},
        onFailed: (task, { message }) => failures.push(`${task}: ${message}`),
      });
    const processes = [await start(), await start()];
    const startedAt = Date.now();
    await waitFor(() => runs.length === 4, { description: 'four runs' });
    await Promise.all(processes.map(({ close }) => close()));
    await backend.drop();
    // Runs stand on the period's grid: the fourth is at least two whole periods after the first.
    expect((runs[3] ?? 0) - (runs[0] ?? startedAt)).toBeGreaterThan(2_000);
    expect(failures).toEqual(['count: not now']);
  },
);
