import { removeComposeProject } from './remove-compose-project.mjs';

export default function globalTeardown() {
  removeComposeProject(process.env.OPM_TEST_COMPOSE_PROJECT);
}
