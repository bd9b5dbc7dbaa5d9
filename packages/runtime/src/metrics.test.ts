import { expect, test } from '@jest/globals';
import fc from 'fast-check';
import { createMetrics } from './metrics.js';

test.each([
  ['without labels', [], {}, 'opm_x{process="test"} 5'],
  ['with labels', ['state'], { state: 'waiting' }, 'opm_x{state="waiting",process="test"} 5'],
])(
  'a gauge %s is left out while reading it fails, and the other metrics are rendered',
  async (_, names, labels, line) => {
    let isAway = false;
    const metrics = createMetrics({ process: 'test' });
    metrics.gauge('opm_x', 'A value.', names, async () => {
      if (isAway) throw new Error('away');
      return [[labels, 5]];
    });
    metrics.counter('opm_other_total', 'Another one.').inc();
    const lines = async () => (await metrics.render()).split('\n').filter((text) => /^opm_(x|other)/.test(text));
    const other = 'opm_other_total{process="test"} 1';
    expect(await lines()).toEqual([line, other]);
    isAway = true;
    expect(await lines()).toEqual([other]);
    isAway = false;
    expect(await lines()).toEqual([line, other]);
  },
);

const linesOf = async ({ render }: ReturnType<typeof createMetrics>, name: string) =>
  (await render())
    .split('\n')
    .filter((line) => line.startsWith(name))
    .sort();

test('a project that is no longer among the busiest loses its series, and begins anew if it returns', async () => {
  const metrics = createMetrics({ process: 'test' });
  const add = metrics.projectCounter(['refused_unavailable']);
  const lines = () => linesOf(metrics, 'opm_project_entries_total');
  const toLine = (project: string, outcome: string, count: number) =>
    `opm_project_entries_total{project="${project}",outcome="${outcome}",process="test"} ${count}`;
  const toLines = (project: string, created: number, unavailable: number) => [
    toLine(project, 'created', created),
    toLine(project, 'refused_unavailable', unavailable),
  ];
  add(new Map([['acme', { created: 2, refused_unavailable: 1 }]]));
  add(new Map([['acme', { created: 3 }]]));
  expect(await lines()).toEqual(toLines('acme', 5, 1));
  add(new Map([['beta', { created: 1 }]]));
  expect(await lines()).toEqual(toLines('beta', 1, 0));
  add(
    new Map([
      ['acme', { created: 7 }],
      ['beta', { created: 7 }],
    ]),
  );
  expect(await lines()).toEqual([...toLines('acme', 7, 0), ...toLines('beta', 8, 0)]);
});

test('hot metrics are rendered like those of prom-client', async () => {
  const requests = fc.array(
    fc.record({
      route: fc.constantFrom('/entry', '/ping', 'a"b\\c'),
      status: fc.constantFrom(200, 201, 503),
      seconds: fc.constantFrom(0, 0.0005, 0.001, 0.002, 0.25, 1, 2.5, 100),
    }),
  );
  await fc.assert(
    fc.asyncProperty(requests, async (all) => {
      const [hot, own] = [createMetrics({ process: 'test' }), createMetrics({ process: 'test' })];
      const bounds = [0.0005, 0.001, 0.25, 2.5];
      const answers = [
        hot.hotCounter('x_total', 'x', ['route', 'status']),
        own.counter('x_total', 'x', ['route', 'status']),
      ] as const;
      const times = [hot.hotHistogram('y', 'y', bounds), own.histogram('y', 'y', bounds)] as const;
      for (const { route, status, seconds } of all) {
        answers[0].inc(route, status);
        answers[1].inc({ route, status });
        for (const time of times) time.observe(seconds);
      }
      for (const name of ['x_total', 'y']) {
        const expected = await linesOf(own, name);
        expect(await linesOf(hot, name)).toEqual(expected);
        expect(await linesOf(hot, name)).toEqual(expected); // reading changes nothing
      }
    }),
    { numRuns: 20 },
  );
});
