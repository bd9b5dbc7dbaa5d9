// Runs the tests of hostile input for longer than `npm test` does. The same seed gives the same input.
import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { parseArgs } from 'node:util';

const names = readdirSync(new URL('../tests/hostile-input', import.meta.url))
  .filter((file) => file.endsWith('.test.ts'))
  .map((file) => file.replace('.test.ts', ''));

const { runs, seed, positionals } = readArguments();
console.log(`npm run fuzz -- ${[`--runs ${runs}`, `--seed ${seed}`, ...positionals].join(' ')}`);

const jest = createRequire(import.meta.url).resolve('jest/bin/jest');
const flags = ['--experimental-vm-modules', '--no-warnings'];
const options = ['--selectProjects', 'integration', '--maxWorkers', '3', '--testTimeout', String(60 * 60 * 1_000)];
const files = positionals.length > 0 ? positionals.map((name) => `hostile-input/${name}`) : ['hostile-input/'];
const { status } = spawnSync(process.execPath, [...flags, jest, ...options, ...files], {
  stdio: 'inherit',
  env: { ...process.env, FUZZ_RUNS: runs, FUZZ_SEED: seed },
});
process.exitCode = status ?? 1;

function readArguments() {
  const options = {
    runs: { type: 'string', default: '500' },
    seed: { type: 'string', default: String(randomInt(2 ** 31)) },
    help: { type: 'boolean' },
  };
  try {
    const { values, positionals } = parseArgs({ allowPositionals: true, options });
    const areFiles = positionals.every((part) => names.some((name) => name.includes(part)));
    if (!values.help && areFiles && /^[1-9]\d*$/.test(values.runs) && /^-?\d+$/.test(values.seed)) {
      return { ...values, positionals };
    }
  } catch {
    // Unknown option: prints the usage below.
  }
  console.error(`usage: npm run fuzz [-- [--runs N] [--seed S] [PART_OF_FILE_NAME]…]\nfiles: ${names.join(', ')}`);
  return process.exit(process.argv.includes('--help') ? 0 : 1);
}
