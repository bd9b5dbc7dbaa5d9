import { findRedisProgram } from '@opm/testkit';
import { setUpEnvironment } from '../set-up-environment.mjs';

/** The tests start all their servers themselves. */
export default async function globalSetup() {
  await findRedisProgram(); // before several files look for it, and would install it, at the same time
  setUpEnvironment();
}
