import { expect, test } from '@jest/globals';
import { createMetrics } from '@opm/runtime';
import { createIngressMetrics } from './metrics.js';

test('failures are series at 0 before the first one, so that rate() sees it', async () => {
  const metrics = createMetrics({ process: 'ingress' });
  const { onAnswer, onReported } = createIngressMetrics(metrics);
  const read = async () =>
    (await metrics.render()).split('\n').filter((line) => /^opm_(answers|project_entries)_total/.test(line));
  const answers = (route: string, status: number, count: number) =>
    `opm_answers_total{route="${route}",status="${status}",process="ingress"} ${count}`;
  const entries = (outcome: string, count: number) =>
    `opm_project_entries_total{project="acme",outcome="${outcome}",process="ingress"} ${count}`;
  const others = [answers('/entry', 500, 0), answers('/entries', 500, 0), answers('/entries', 503, 0)];
  expect((await read()).sort()).toEqual([...others, answers('/entry', 503, 0)].sort());
  onAnswer('/entry', 503);
  onReported(new Map([['acme', { created: 2 }]]));
  const after = [answers('/entry', 503, 1), entries('created', 2), entries('refused_unavailable', 0)];
  expect((await read()).sort()).toEqual([...others, ...after].sort());
  onReported(new Map([['acme', { refused_unavailable: 3 }]]));
  expect(await read()).toContain(entries('refused_unavailable', 3));
  onReported(new Map());
  expect((await read()).sort()).toEqual([...others, answers('/entry', 503, 1)].sort());
});
