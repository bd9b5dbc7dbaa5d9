import { setTimeout as delay } from 'node:timers/promises';
import type { TcpProxy } from '@opm/testkit';
import type { FaultKind } from './fault.js';

/** Connections that are cut, hang or become slow. */
export const LINK_FAULTS: FaultKind[] = [
  define(3, 'cut', async (proxy, forMs) => {
    await proxy.cut();
    await delay(forMs);
    await proxy.restore();
  }),
  define(2, 'silence', async (proxy, forMs) => {
    proxy.swallow();
    await delay(forMs);
  }),
  define(2, 'slow down', async (proxy, forMs) => {
    proxy.delay(Math.ceil(forMs / 15));
    await delay(forMs);
    proxy.delay(0);
  }),
];

function define(weight: number, verb: string, run: (proxy: TcpProxy, forMs: number) => Promise<void>): FaultKind {
  return {
    weight,
    draw({ links }, random) {
      const { name, proxy } = random.pick(links);
      const forMs = random.between(50, 3_000);
      return { name: `${verb} ${name}`, victim: name, run: () => run(proxy, forMs) };
    },
  };
}
