import { toJestConfig, WITH_PROCESSES } from './tests/jest-base.mjs';

export default toJestConfig({
  ...WITH_PROCESSES,
  name: 'stack',
  testMatch: ['<rootDir>/tests/stack/*.test.ts'],
  globalSetup: '<rootDir>/tests/stack/global-setup.mjs',
  // Each file waits most of the time.
  maxWorkers: 4,
});
