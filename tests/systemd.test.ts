import { execFile } from 'node:child_process';
import { cp, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { findProgram, findShellCheck } from '@opm/testkit';

const SHIPPED = join(import.meta.dirname, '../deploy/systemd');
/** The units that run the code of partners' requests and of the command line. */
const SANDBOXED = ['opm-ingress@.service', 'opm-worker@.service', 'opm-console.service', 'opm-migrate@.service'];

let directory: string;
let files: string[];
let analyze: (...args: string[]) => Promise<string>;

beforeAll(async () => {
  const program = await findProgram({
    title: 'systemd-analyze',
    names: ['systemd-analyze'],
    aptPackages: ['systemd'],
    otherwise: 'run the tests on Linux with systemd',
  });
  directory = await mkdtemp(join(tmpdir(), 'opm-units-'));
  await cp(SHIPPED, directory, { recursive: true });
  files = (await readdir(directory)).filter((file) => /\.(service|target|timer)$/.test(file));
  // systemd-analyze looks whether the programs exist.
  for (const file of files) {
    const unit = await readFile(join(directory, file), 'utf8');
    const here = unit
      .replaceAll('/usr/bin/node', process.execPath)
      .replaceAll('/opt/opm/current/deploy/systemd', directory);
    await writeFile(join(directory, file), here);
  }
  analyze = async (...args) => {
    const env = { ...process.env, SYSTEMD_UNIT_PATH: `${directory}:` };
    const { stdout, stderr } = await promisify(execFile)(program, args, { env });
    return stdout + stderr;
  };
});
afterAll(() => rm(directory, { recursive: true }));

test('systemd understands every line of the units', async () => {
  const paths = files.map((file) => join(directory, file));
  expect(await analyze('verify', '--man=no', ...paths)).toBe('');
});

describe('the sandbox', () => {
  test.each(SANDBOXED)('of %s has an exposure of 1.0 at most', async (file) => {
    await analyze('security', '--offline=true', '--threshold=10', join(directory, file));
  });
});

test('ShellCheck finds no problem in the scripts', async () => {
  const scripts = ['kill-frozen.sh', 'upgrade.sh', 'opm'];
  await promisify(execFile)(await findShellCheck(), ['--shell=sh', ...scripts], { cwd: SHIPPED });
});
