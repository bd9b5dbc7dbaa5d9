import { toJestConfig } from './tests/jest-base.mjs';

export default toJestConfig({
  name: 'docker',
  testMatch: ['<rootDir>/tests/docker/*.test.ts'],
  globalSetup: '<rootDir>/tests/docker/global-setup.mjs',
  globalTeardown: '<rootDir>/tests/docker/global-teardown.mjs',
  maxWorkers: 2,
  // Building the images on a machine that has none of their layers takes minutes.
  testTimeout: 900_000,
});
