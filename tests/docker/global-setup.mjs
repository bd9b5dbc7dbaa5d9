import { randomBytes } from 'node:crypto';
import { removeComposeProjects } from './remove-compose-projects.mjs';

/** Names the run, and removes its Compose projects on Ctrl-C. */
export default function globalSetup() {
  const run = `opm-test-${randomBytes(4).toString('hex')}`;
  process.env.OPM_TEST_COMPOSE_RUN = run;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => {
      removeComposeProjects(run);
      process.exit(1);
    });
  }
}
