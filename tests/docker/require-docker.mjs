// Fails with one line if Docker or Docker Compose is missing, so that tests that need them are not skipped.
import { spawnSync } from 'node:child_process';

for (const args of [['version'], ['compose', 'version']]) {
  const { status, stderr, error } = spawnSync('docker', args, { encoding: 'utf8' });
  if (status === 0) continue;
  const reason = error?.message ?? stderr.trim().split('\n').at(-1);
  console.error(`These tests need Docker, but "docker ${args.join(' ')}" fails: ${reason}`);
  process.exit(1);
}
