import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import semver from 'semver';

const read = (name) => JSON.parse(readFileSync(new URL(`../${name}`, import.meta.url), 'utf8'));

test('every package of package-lock.json supports the oldest Node that the project does, and the newest 24', () => {
  const oldest = semver.minVersion(read('package.json').engines.node).version;
  const packages = Object.entries(read('package-lock.json').packages);
  const without = (version) =>
    packages
      .filter(([, { engines }]) => engines?.node && !semver.satisfies(version, engines.node))
      .map(([path, { engines }]) => `${path} needs ${engines.node}`);
  expect(oldest).toBe('20.19.0');
  expect(without(oldest)).toEqual([]);
  expect(without('24.99.0')).toEqual([]);
});
