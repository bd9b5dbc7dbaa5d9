const swc = (jsc) => [
  '@swc/jest',
  { jsc: { ...jsc, target: 'es2022' }, module: { type: 'es6' }, sourceMaps: 'inline' },
];
const toJsx = { react: { runtime: 'automatic', importSource: 'preact' } };

// Every test run is a project of this file: `jest --selectProjects unit`. package.json has a script for each.
const project = (displayName, config) => ({
  displayName,
  testEnvironment: '<rootDir>/tests/leak-check-environment.mjs',
  // Tests run as real ES modules: sources compiled by swc, `@opm/*` from the packages' dist, as in production.
  extensionsToTreatAsEsm: ['.ts', '.tsx'],
  transform: {
    '^.+\\.ts$': swc({ parser: { syntax: 'typescript' } }),
    '^.+\\.tsx$': swc({ parser: { syntax: 'typescript', tsx: true }, transform: toJsx }),
  },
  // TypeScript sources import './x.js' for ./x.ts or ./x.tsx; a file that exists under its own name keeps it.
  moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': ['$1.js', '$1.ts', '$1.tsx'] },
  ...config,
});

/** Checks every answer that the project's own processes give to a test. */
const CHECK_ANSWERS = { setupFiles: ['<rootDir>/tests/check-answers.mjs'] };

export default {
  testTimeout: 900_000,
  // Makes Jest use a worker even for a single file: its own process has timers that look like leaks.
  workerIdleMemoryLimit: '1GB',
  testSequencer: '<rootDir>/tests/slowest-first.mjs',
  reporters: ['default', '<rootDir>/tests/report.mjs'],
  projects: [
    project('unit', {
      testMatch: [
        '<rootDir>/packages/*/src/**/*.test.ts',
        '<rootDir>/apps/*/src/**/*.test.ts',
        '<rootDir>/chaos/src/**/*.test.ts',
        '<rootDir>/tools/*.test.mjs',
      ],
    }),
    project('integration', {
      ...CHECK_ANSWERS,
      testMatch: [
        '<rootDir>/packages/*/test/**/*.test.ts',
        '<rootDir>/apps/*/test/**/*.test.ts',
        '<rootDir>/tests/**/*.test.ts',
      ],
      testPathIgnorePatterns: ['/node_modules/', '<rootDir>/tests/(docker|stack)/'],
      globalSetup: '<rootDir>/tests/global-setup.mjs',
      globalTeardown: '<rootDir>/tests/global-teardown.mjs',
    }),
    project('stack', {
      ...CHECK_ANSWERS,
      testMatch: ['<rootDir>/tests/stack/*.test.ts'],
      globalSetup: '<rootDir>/tests/stack/global-setup.mjs',
    }),
    project('docker', {
      testMatch: ['<rootDir>/tests/docker/*.test.ts'],
      globalSetup: '<rootDir>/tests/docker/global-setup.mjs',
      globalTeardown: '<rootDir>/tests/docker/global-teardown.mjs',
    }),
  ],
};
