import { fileURLToPath } from 'node:url';

const nodeMajor = process.versions.node.split('.')[0];

/** Of tests that start the project's own processes. */
export const WITH_PROCESSES = {
  setupFiles: ['<rootDir>/tests/check-answers.mjs'],
};

/** Tests run as real ES modules: sources compiled by swc, `@opm/*` from the packages' dist, as in production. */
export function toJestConfig({ name, ...config }) {
  return {
    rootDir: fileURLToPath(new URL('..', import.meta.url)),
    testEnvironment: '<rootDir>/tests/leak-check-environment.mjs',
    testTimeout: 900_000,
    // Has Jest use a worker even for a single file: its own process is too busy to tell a leak from its own timers.
    workerIdleMemoryLimit: '1GB',
    reporters: ['default', ['<rootDir>/tests/report.mjs', { outputFile: `.reports/node-${nodeMajor}/${name}.json` }]],
    extensionsToTreatAsEsm: ['.ts'],
    transform: {
      '^.+\\.ts$': [
        '@swc/jest',
        { jsc: { parser: { syntax: 'typescript' }, target: 'es2022' }, module: { type: 'es6' }, sourceMaps: 'inline' },
      ],
    },
    // TypeScript sources import './x.js' for ./x.ts; anything that exists under its own name keeps it.
    moduleNameMapper: { '^(\\.{1,2}/.*)\\.js$': ['$1.js', '$1.ts'] },
    ...config,
  };
}
