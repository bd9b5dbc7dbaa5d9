import { expect, test } from '@jest/globals';
import { assertNewEnough } from './redis-health.js';

test.each(['5.0.14', '6.2.18'])('Redis %s is too old, and the error names the required version', (version) => {
  expect(() => assertNewEnough(version)).toThrow(`Redis must be 7.0 or newer, not ${version}`);
});

test.each(['7.0.0', '7.2.4', '8.0.2', '10.0.0', undefined])('Redis %s is accepted', (version) => {
  expect(() => assertNewEnough(version)).not.toThrow();
});
