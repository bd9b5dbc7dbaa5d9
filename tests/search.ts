import fc from 'fast-check';

/** Makes `min` runs of a property on every machine, and more on a fast one: up to `max` while `ms` have not passed. */
export async function search<Drawn>(
  property: fc.IAsyncProperty<Drawn>,
  { min, max, ms }: { min: number; max: number; ms: number },
): Promise<void> {
  const end = performance.now() + ms;
  // Without shrinking, which may take longer than a test may.
  await fc.assert(property, { numRuns: min, endOnFailure: true });
  for (let run = min; run < max && performance.now() < end; run++) {
    await fc.assert(property, { numRuns: 1, endOnFailure: true });
  }
}
