import { randomUUID } from 'node:crypto';

/** What containers of a test run are labelled with; its value is the run's id. */
export const TEST_RUN_LABEL = 'opm.test-run';

const RUN_ID_VARIABLE = 'OPM_TEST_RUN';

/** The same in all processes of a run that its first one starts after it has asked. */
export function testRunId(): string {
  process.env[RUN_ID_VARIABLE] ||= randomUUID();
  return process.env[RUN_ID_VARIABLE];
}

/** Removes the containers that this run has started and not stopped; returns their images. None without a Docker engine. */
export async function removeLeftContainers(): Promise<string[]> {
  const docker = await findDocker();
  const filters = { label: [`${TEST_RUN_LABEL}=${testRunId()}`] };
  const left = (await docker?.listContainers({ all: true, filters })) ?? [];
  await Promise.all(left.map(({ Id }) => docker?.getContainer(Id).remove({ force: true, v: true })));
  return left.map(({ Image }) => Image);
}

/** The engine that the containers would be on. */
async function findDocker() {
  const { getContainerRuntimeClient } = await import('testcontainers');
  const client = await getContainerRuntimeClient().catch(() => undefined);
  return client?.container.dockerode;
}
