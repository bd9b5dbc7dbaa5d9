import fc from 'fast-check';

/** Makes `min` runs of a property on every machine, and more on a fast one: up to `max` while `ms` have not passed. */
export async function search<Drawn>(
  property: fc.IAsyncProperty<Drawn>,
  { min, max, ms }: { min: number; max: number; ms: number },
  parameters?: fc.Parameters<Drawn>,
): Promise<void> {
  const end = performance.now() + ms;
  for (let run = 0; run < min || (run < max && performance.now() < end); run++) {
    await fc.assert(property, { ...parameters, numRuns: 1 });
  }
}
