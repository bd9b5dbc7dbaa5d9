import { execFile } from 'node:child_process';
import { access, cp, mkdir, mkdtemp, readdir, readFile, readlink, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { findProgram, findShellCheck } from '@opm/testkit';

const SHIPPED = join(import.meta.dirname, '../deploy/systemd');
const BACKUP = join(import.meta.dirname, '../deploy/backup');
/** Units that run a process, and the highest exposure that each may have. */
const SANDBOXED = {
  'opm-ingress@.service': 1.0,
  'opm-worker@.service': 1.0,
  'opm-console.service': 1.0,
  'opm-migrate@.service': 1.0,
  'postgresql-backup.service': 1.0,
};
/** Has no sandbox: it asks systemd, as root, to kill other units. */
const NOT_SANDBOXED = 'kill-frozen-opm.service';

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
  await cp(join(BACKUP, 'postgresql-backup.service'), join(directory, 'postgresql-backup.service'));
  files = (await readdir(directory)).filter((file) => /\.(service|target|timer)$/.test(file));
  // systemd-analyze looks whether the programs exist.
  for (const file of files) {
    const unit = await readFile(join(directory, file), 'utf8');
    const here = unit
      .replaceAll('/usr/bin/node', process.execPath)
      .replaceAll('/opt/opm/current/deploy/systemd', directory)
      .replaceAll('/opt/opm/current/deploy/backup', BACKUP);
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
  test.each(Object.entries(SANDBOXED))('of %s has an exposure of %d at most', async (file, limit) => {
    await analyze('security', '--offline=true', `--threshold=${limit * 10}`, join(directory, file));
  });

  test('of every other unit is measured', () => {
    const units = [...Object.keys(SANDBOXED), NOT_SANDBOXED];
    expect(units.sort()).toEqual(files.filter((file) => file.endsWith('.service')).sort());
  });
});

test('the command in docs/systemd.md copies a clone that was used without its secrets, variables and data', async () => {
  const guide = await readFile('docs/systemd.md', 'utf8');
  const [, copy = ''] = /^npm ci .*\n((?:.+\n)*?)```$/m.exec(guide) ?? [];
  const clone = join(directory, 'clone');
  for (const file of [
    '.env',
    '.env.before',
    '.data/demo.json',
    'secrets/owner-database-url',
    'deploy/systemd/opm.env',
  ]) {
    await mkdir(join(clone, file, '..'), { recursive: true });
    await writeFile(join(clone, file), '');
  }
  await mkdir(join(clone, 'node_modules/x/secrets'), { recursive: true });
  await mkdir(join(clone, 'node_modules/.bin'));
  await promisify(execFile)('sh', ['-ec', copy.replaceAll('/opt/opm', `${directory}/copy`)], { cwd: clone });
  const copied = await readdir(join(directory, 'copy/1.0.0'), { recursive: true });
  expect(copied.filter((name) => !/^(deploy|node_modules)$/.test(name)).sort()).toEqual([
    ...['deploy/systemd', 'deploy/systemd/opm.env'],
    ...['node_modules/.bin', 'node_modules/x', 'node_modules/x/secrets'],
  ]);
});

describe('upgrade.sh', () => {
  let root: string;
  let program: string;
  const upgrade = (...args: string[]) =>
    promisify(execFile)('sh', [program, ...args], { env: { PATH: `${root}:${process.env.PATH}` } });
  /** Each restart, with the versions that the links name then: of the workers, and of all others. */
  const readRestarts = async () => (await readFile(join(root, 'log'), 'utf8')).trim().split('\n');

  beforeAll(async () => {
    root = await mkdtemp(join(tmpdir(), 'opm-upgrade-'));
    program = join(root, 'upgrade.sh');
    for (const version of ['1.0.0', '1.1.0'])
      await cp(SHIPPED, join(root, version, 'deploy/systemd'), { recursive: true });
    const script = await readFile(join(SHIPPED, 'upgrade.sh'), 'utf8');
    await writeFile(program, script.replaceAll('/opt/opm', root).replace(/\/(etc|usr\/local\/bin)\//g, `${root}/$1/`));
    await mkdir(join(root, 'usr/local/bin'), { recursive: true });
    const systemctl = `#!/bin/sh
case $1 in
  list-units) for arg; do pattern=$arg; done
    for unit in opm-console opm-ingress@3010 opm-ingress@3011 opm-worker@9411 opm-worker@9412; do
      case $unit.service in $pattern) echo "$unit.service loaded active running" ;; esac
    done ;;
  restart) echo "$2 $(readlink ${root}/current-workers) $(readlink ${root}/current)" >>${root}/log ;;
esac
`;
    await writeFile(join(root, 'systemctl'), systemctl, { mode: 0o755 });
  });
  afterAll(() => rm(root, { recursive: true }));

  test('replaces only the workers first, so that no new ingress feeds an old worker of another machine', async () => {
    await upgrade('1.0.0');
    await rm(join(root, 'log'));
    await upgrade('1.1.0', 'workers');
    const workers = ['opm-worker@9411.service', 'opm-worker@9412.service'];
    expect(await readRestarts()).toEqual(workers.map((unit) => `${unit} 1.1.0 1.0.0`));
    await rm(join(root, 'log'));
    await upgrade('1.1.0');
    expect(await readRestarts()).toEqual([
      ...workers.map((unit) => `${unit} 1.1.0 1.0.0`),
      ...['opm-ingress@3010.service', 'opm-ingress@3011.service', 'opm-console.service'].map(
        (unit) => `${unit} 1.1.0 1.1.0`,
      ),
    ]);
  });

  test('gives the workers their link before anything that may fail, so that they can start after it', async () => {
    await upgrade('1.0.0');
    await rm(join(root, 'current-workers')); // as in versions without it
    await writeFile(join(root, 'install'), '#!/bin/sh\nexit 1\n', { mode: 0o755 });
    await expect(upgrade('1.1.0')).rejects.toThrow('Command failed');
    await rm(join(root, 'install'));
    expect(await readlink(join(root, 'current-workers'))).toBe('1.0.0');
  });

  test('changes nothing if its second argument is not `workers`', async () => {
    await rm(join(root, 'log'), { force: true });
    await expect(upgrade('1.0.0', 'worker')).rejects.toThrow('upgrade.sh VERSION [workers]');
    await expect(access(join(root, 'log'))).rejects.toThrow('ENOENT');
  });
});

test('ShellCheck finds no problem in the scripts', async () => {
  const scripts = ['kill-frozen.sh', 'upgrade.sh', 'opm'];
  await promisify(execFile)(await findShellCheck(), ['--shell=sh', ...scripts], { cwd: SHIPPED });
});
