import { toJestConfig } from './tests/jest-base.mjs';

export default toJestConfig({
  name: 'docker',
  testMatch: ['<rootDir>/tests/docker/*.test.ts'],
  globalSetup: '<rootDir>/tests/docker/global-setup.mjs',
  globalTeardown: '<rootDir>/tests/docker/global-teardown.mjs',
  maxWorkers: 2,
});
