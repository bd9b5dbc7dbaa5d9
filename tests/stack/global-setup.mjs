import { findRedisProgram } from '@opm/testkit';
import { setUpEnvironment } from '../set-up-environment.mjs';

/** The tests start all their servers themselves. */
export default async function globalSetup() {
  await findRedisProgram(); // Done here, because test files that run in parallel would otherwise each install it.
  setUpEnvironment({ areShort: false });
}
