import { execFileSync } from 'node:child_process';

/**
 * Names and image tags begin with the name of the run. The layers of images stay in the build cache for the next run.
 */
const toKinds = (run) => [
  { kind: 'container', list: ['--all', '--filter', `name=${run}`], remove: ['--volumes'] },
  { kind: 'network', list: ['--filter', `name=${run}`], remove: [] },
  { kind: 'volume', list: ['--filter', `name=${run}`], remove: [] },
  { kind: 'image', list: ['--filter', `reference=*:${run}-*`], remove: [] },
];

/** Removes the images of the run, and what failed tests left of its Compose projects. */
export function removeComposeProjects(run) {
  const docker = (...args) => execFileSync('docker', args, { encoding: 'utf8' });
  for (const { kind, list, remove } of toKinds(run)) {
    const ids = docker(kind, 'ls', '--quiet', ...list).split('\n');
    // With --force, because an interrupted test may remove some of it at the same time.
    const all = new Set(ids.filter(Boolean)); // Two tags may name the same image.
    if (all.size > 0) docker(kind, 'rm', '--force', ...remove, ...all);
  }
}
