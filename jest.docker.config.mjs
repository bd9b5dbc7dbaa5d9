import { toJestConfig } from './tests/jest-base.mjs';

export default toJestConfig({
  name: 'docker',
  testMatch: ['<rootDir>/tests/docker/*.test.ts'],
  globalSetup: '<rootDir>/tests/docker/global-setup.mjs',
  globalTeardown: '<rootDir>/tests/docker/global-teardown.mjs',
  // One after the other: they have one name for what they bring up.
  maxWorkers: 1,
  // Building the images on a machine that has none of their layers takes minutes.
  testTimeout: 900_000,
});
