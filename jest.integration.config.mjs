import { toJestConfig, WITH_PROCESSES } from './tests/jest-base.mjs';

export default toJestConfig({
  ...WITH_PROCESSES,
  // With containers they are a run of their own, beside the one with what is found.
  name: process.env.OPM_TEST_SERVERS ? `integration-${process.env.OPM_TEST_SERVERS}` : 'integration',
  testMatch: [
    '<rootDir>/packages/*/test/**/*.test.ts',
    '<rootDir>/apps/*/test/**/*.test.ts',
    '<rootDir>/tests/**/*.test.ts',
  ],
  testPathIgnorePatterns: ['/node_modules/', '<rootDir>/tests/(docker|stack)/'],
  globalSetup: '<rootDir>/tests/global-setup.mjs',
  globalTeardown: '<rootDir>/tests/global-teardown.mjs',
  testSequencer: '<rootDir>/tests/slowest-first.mjs',
  // On 2 processors, for a third of the time tests wait for what takes as long as it takes.
  maxWorkers: 3,
});
