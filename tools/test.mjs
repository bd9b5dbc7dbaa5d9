// `npm test`: builds, runs all parts even if one fails, and prints the sum of their reports.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { rmSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const PARTS = ['unit', 'integration', 'stack'];
const root = fileURLToPath(new URL('..', import.meta.url));
const reports = PARTS.map((part) => `node-${process.versions.node.split('.')[0]}/${part}`);

let isEnded = false;
// Ctrl-C also reaches the running part, which cleans up.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => (isEnded = true));

async function run(command, ...args) {
  const [code] = await once(spawn(command, args, { cwd: root, stdio: 'inherit' }), 'close');
  if (code !== 0) process.exitCode = 1;
  return code === 0;
}

for (const report of reports) rmSync(`${root}/.reports/${report}.json`, { force: true });
if (await run(process.execPath, 'tools/build.mjs')) {
  for (const part of PARTS) if (!isEnded) await run('npm', 'run', '--silent', `test:${part}`);
}
await run(process.execPath, 'tests/sum-reports.mjs', ...reports);
