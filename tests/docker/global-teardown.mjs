import { removeComposeProjects } from './remove-compose-projects.mjs';

export default function globalTeardown() {
  removeComposeProjects(process.env.OPM_TEST_COMPOSE_RUN);
}
