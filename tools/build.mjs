// Builds what has changed. Prints nothing unless the build fails. Passes its options to turbo.
import { spawnSync } from 'node:child_process';
import { createRequire } from 'node:module';

const turbo = createRequire(import.meta.url).resolve('turbo/bin/turbo');
const { status, stdout, stderr, error } = spawnSync(
  process.execPath,
  [turbo, 'run', 'build', '--ui=stream', ...process.argv.slice(2)],
  { encoding: 'utf8', env: { ...process.env, TURBO_TELEMETRY_DISABLED: '1', DO_NOT_TRACK: '1' } },
);
if (status !== 0) {
  console.error(stdout, stderr, error ?? '');
  process.exitCode = 1;
}
