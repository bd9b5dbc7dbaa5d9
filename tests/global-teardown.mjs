import { removeLeftContainers } from '@opm/testkit';

export default async function globalTeardown() {
  await globalThis.stopTestServers();
  const left = await removeLeftContainers();
  if (left.length > 0) throw new Error(`Tests left containers behind, which have been removed now: ${left.join(', ')}`);
}
