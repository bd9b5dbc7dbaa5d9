// Lints the built OpenAPI document. Prints nothing unless it has problems.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { toOpenApiDocument } from '@opm/contract';

const config = fileURLToPath(new URL('../redocly.yaml', import.meta.url));
const redocly = join(createRequire(import.meta.url).resolve('@redocly/cli/package.json'), '../bin/cli.js');
const directory = mkdtempSync(join(tmpdir(), 'opm-openapi-'));
try {
  const file = join(directory, 'openapi.json');
  writeFileSync(file, JSON.stringify(toOpenApiDocument({ version: '0.0.0' }), null, 2));
  const { status, stdout, stderr } = spawnSync(process.execPath, [redocly, 'lint', file, '--config', config], {
    encoding: 'utf8',
    // No telemetry, no check for a newer version.
    env: { ...process.env, REDOCLY_TELEMETRY: 'off', REDOCLY_SUPPRESS_UPDATE_NOTICE: 'true' },
  });
  if (status !== 0) console.error(stdout, stderr);
  process.exitCode = status ?? 1;
} finally {
  rmSync(directory, { recursive: true });
}
