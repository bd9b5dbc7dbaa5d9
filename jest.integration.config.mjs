import { toJestConfig } from './tests/jest-base.mjs';

export default toJestConfig({
  // With containers they are a run of their own, beside the one with what is found.
  name: process.env.OPM_TEST_SERVERS ? `integration-${process.env.OPM_TEST_SERVERS}` : 'integration',
  testMatch: [
    '<rootDir>/packages/*/test/**/*.test.ts',
    '<rootDir>/apps/*/test/**/*.test.ts',
    '<rootDir>/tests/**/*.test.ts',
  ],
  testPathIgnorePatterns: ['/node_modules/', '<rootDir>/tests/docker/'],
  setupFiles: ['<rootDir>/tests/check-answers.mjs'],
  setupFilesAfterEnv: process.env.CI ? ['<rootDir>/tests/try-again.mjs'] : [],
  globalSetup: '<rootDir>/tests/global-setup.mjs',
  globalTeardown: '<rootDir>/tests/global-teardown.mjs',
  testSequencer: '<rootDir>/tests/slowest-first.mjs',
  testTimeout: 180_000,
  maxWorkers: 2,
});
