import { randomBytes } from 'node:crypto';
import { removeComposeProject } from './remove-compose-project.mjs';

/** The name of the run's Compose project, of which nothing stays behind, not even after Ctrl-C. */
export default function globalSetup() {
  const name = `opm-test-${randomBytes(4).toString('hex')}`;
  process.env.OPM_TEST_COMPOSE_PROJECT = name;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => {
      removeComposeProject(name);
      process.exit(1);
    });
  }
}
