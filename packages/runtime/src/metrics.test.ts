import { expect, test } from '@jest/globals';
import { createMetrics } from './metrics.js';

test.each([
  ['without labels', [], {}, 'opm_x{process="test"} 5'],
  ['with labels', ['state'], { state: 'waiting' }, 'opm_x{state="waiting",process="test"} 5'],
])(
  'a gauge %s is left out while it cannot be read, and the other metrics are rendered',
  async (_, names, labels, line) => {
    let isAway = false;
    const metrics = createMetrics({ process: 'test' });
    metrics.gauge('opm_x', 'A value.', names, async () => {
      if (isAway) throw new Error('away');
      return [[labels, 5]];
    });
    metrics.counter('opm_other_total', 'Another one.').inc();
    const lines = async () => (await metrics.render()).split('\n').filter((text) => text.startsWith('opm_'));
    const other = 'opm_other_total{process="test"} 1';
    expect(await lines()).toEqual([line, other]);
    isAway = true;
    expect(await lines()).toEqual([other]);
    isAway = false;
    expect(await lines()).toEqual([line, other]);
  },
);
