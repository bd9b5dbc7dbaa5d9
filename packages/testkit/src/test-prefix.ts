import { randomBytes } from 'node:crypto';

/** A Redis prefix that no other test file shares; also fit for a database name. */
export function testPrefix(): string {
  return `opm_test_${randomBytes(6).toString('hex')}`;
}
