import { execFileSync } from 'node:child_process';

/** Names begin with the run's, and so do the tags of images. Their layers stay in the cache of the builds, for the next run. */
const toKinds = (run) => [
  { kind: 'container', list: ['--all', '--filter', `name=${run}`], remove: ['--volumes'] },
  { kind: 'network', list: ['--filter', `name=${run}`], remove: [] },
  { kind: 'volume', list: ['--filter', `name=${run}`], remove: [] },
  { kind: 'image', list: ['--filter', `reference=*:${run}-*`], remove: [] },
];

/** Removes the images of the run, and whatever else a test that failed has left of its Compose projects. */
export function removeComposeProjects(run) {
  const docker = (...args) => execFileSync('docker', args, { encoding: 'utf8' });
  for (const { kind, list, remove } of toKinds(run)) {
    const ids = docker(kind, 'ls', '--quiet', ...list).split('\n');
    // By force, for a test that is interrupted removes some of it at the same time.
    const all = new Set(ids.filter(Boolean)); // two tags may be one image
    if (all.size > 0) docker(kind, 'rm', '--force', ...remove, ...all);
  }
}
