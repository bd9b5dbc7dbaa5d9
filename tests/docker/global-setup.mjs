import { randomBytes } from 'node:crypto';
import { removeComposeProjects } from './remove-compose-projects.mjs';

/** The name of the run, of whose Compose projects nothing stays behind, not even after Ctrl-C. */
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
