import { toJestConfig } from './tests/jest-base.mjs';

export default toJestConfig({
  name: 'unit',
  testMatch: [
    '<rootDir>/packages/*/src/**/*.test.ts',
    '<rootDir>/apps/*/src/**/*.test.ts',
    '<rootDir>/chaos/src/**/*.test.ts',
    '<rootDir>/tools/*.test.mjs',
  ],
});
