import { execFileSync } from 'node:child_process';

/** The images are tagged with the project's name. Their layers stay in the cache of the builds, for the next run. */
const toKinds = (name) => [
  {
    kind: 'container',
    filter: `label=com.docker.compose.project=${name}`,
    all: ['--all'],
    remove: ['--force', '--volumes'],
  },
  { kind: 'network', filter: `label=com.docker.compose.project=${name}`, all: [], remove: [] },
  { kind: 'volume', filter: `label=com.docker.compose.project=${name}`, all: [], remove: [] },
  { kind: 'image', filter: `reference=*:${name}`, all: [], remove: [] },
];

/** Removes the images of the Compose project, and whatever else a test that failed has left of it. */
export function removeComposeProject(name) {
  const docker = (...args) => execFileSync('docker', args, { encoding: 'utf8' });
  for (const { kind, filter, all, remove } of toKinds(name)) {
    const ids = docker(kind, 'ls', '--quiet', ...all, '--filter', filter)
      .split('\n')
      .filter(Boolean);
    if (ids.length > 0) docker(kind, 'rm', ...remove, ...ids);
  }
}
