import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { waitFor } from '@opm/testkit';
import { startFront } from '../start-front.js';
import { findFreePorts } from './compose-project.js';
import { startLoad } from './load.js';
import { createRows } from './rows.js';

const ROOT = join(import.meta.dirname, '../..');
const NAME = `${process.env.OPM_TEST_COMPOSE_RUN}-systemd`;
const UNITS = ['opm-worker@9411', 'opm-worker@9412', 'opm-ingress@3010', 'opm-ingress@3011', 'opm-console'];

const superuser = randomBytes(24).toString('hex');

const docker = async (...args: string[]): Promise<string> =>
  (await promisify(execFile)('docker', args, { cwd: ROOT, maxBuffer: 64 * 1024 * 1024 })).stdout.trim();
/** Runs commands as root on the machine with systemd. */
const run = (script: string) => docker('exec', `${NAME}-machine`, 'sh', '-ec', script);
const addressOf = (container: string) =>
  docker('inspect', '--format', `{{(index .NetworkSettings.Networks "${NAME}").IPAddress}}`, `${NAME}-${container}`);
const readPid = async (unit: string) => (await run(`systemctl show --property MainPID --value ${unit}`)).trim();

/** The commands below a heading of docs/systemd.md. */
async function readCommands(heading: string): Promise<string> {
  const guide = await readFile(join(ROOT, 'docs/systemd.md'), 'utf8');
  const [, section = ''] = guide.split(`\n## ${heading}\n`);
  const [own = ''] = section.split('\n## ');
  return [...own.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, commands = '']) => commands).join('');
}

let ports: number[];
let front: Awaited<ReturnType<typeof startFront>>;
let databaseUrl: string;
let project: { projectId: number; apiKey: string };

beforeAll(async () => {
  ports = await findFreePorts(3);
  await docker('build', '--tag', `opm:${NAME}`, '--file', 'tests/docker/systemd.Dockerfile', 'tests/docker');
  await docker('network', 'create', NAME);
  const start = (name: string, ...args: string[]) =>
    docker('run', '--detach', '--name', `${NAME}-${name}`, '--network', NAME, ...args);
  const alias = (name: string) => ['--network-alias', `${name}.example.com`];
  const database = ['--env', `POSTGRES_PASSWORD=${superuser}`, '--env', 'POSTGRES_DB=opm'];
  await start('db', ...alias('db'), '--publish', `127.0.0.1:${ports[2]}:5432`, ...database, 'postgres:17');
  const versions = ['1.0.0', '1.1.0'].flatMap((version) => ['--volume', `${ROOT}:/opt/opm/${version}:ro`]);
  const published = ports.slice(0, 2).flatMap((port, n) => ['--publish', `127.0.0.1:${port}:${3010 + n}`]);
  const temporary = ['/run', '/run/lock', '/tmp'].flatMap((path) => ['--tmpfs', path]);
  const privileges = ['--privileged', '--cgroupns', 'private'];
  await start('machine', ...privileges, ...temporary, ...versions, ...published, `opm:${NAME}`);
  await waitFor(() => run('systemctl is-active basic.target'), { description: 'systemd to start' });

  // The repository itself must get no secrets.
  const release = 'mkdir /tmp/release; cp -r /opt/opm/1.0.0/deploy /tmp/release; cd /tmp/release';
  await run((await readCommands('Secrets and variables')).replace('cd /opt/opm/1.0.0', release));
  const service = `[opm]\nhost=db.example.com\ndbname=opm\nuser=postgres\npassword=${superuser}\n`;
  await run(`umask 077; printf '${service}' >/etc/opm/secrets/pg_service.conf; echo HOST=0.0.0.0 >>/etc/opm/opm.env`);
  const users = await run('cat /etc/opm/secrets/redis-users.acl');
  const redis = 'redis-server --aclfile /tmp/users --appendonly yes --maxmemory 256mb --maxmemory-policy noeviction';
  const command = `echo "$USERS" >/tmp/users; exec ${redis}`;
  await start('redis', ...alias('redis'), '--env', `USERS=${users}`, 'redis:8', 'sh', '-c', command);
  await waitFor(() => docker('exec', `${NAME}-db`, 'pg_isready', '--host=127.0.0.1'), { description: 'PostgreSQL' });

  const gateway = await docker('network', 'inspect', '--format', '{{(index .IPAM.Config 0).Gateway}}', NAME);
  const addresses = [gateway, ...(await Promise.all(['db', 'redis'].map(addressOf)))].join(' ');
  const wide = `${addresses}\nTimeoutStartSec=300`; // as all time limits of the tests
  await run((await readCommands('Network')).replace('10.0.0.5 10.0.0.6', wide));
  await run((await readCommands('Start')).replace('opm projects create acme\n', ''));
  project = JSON.parse(await run('opm projects create acme --json'));
  front = await startFront(ports.slice(0, 2).concat(await findFreePorts(2)));
  databaseUrl = `postgresql://postgres:${superuser}@127.0.0.1:${ports[2]}/opm`;
});
afterAll(() => front?.stop());

/** Runs `act` while partners send entries. All entries must be accepted, and the rows must be exactly these entries. */
async function underLoad(act: (goesOn: () => Promise<void>) => Promise<void>): Promise<void> {
  const load = startLoad({ url: front.url, apiKey: project.apiKey });
  try {
    await load.goesOn();
    await act(load.goesOn);
    await load.goesOn();
    await load.end();
    expect(load.failures).toEqual([]);
    await createRows(databaseUrl, project.projectId).catchUp(load.acknowledged);
  } finally {
    await load.drop();
  }
}

test('an upgrade and a rollback replace every process and lose no entry', async () => {
  const pids = () => Promise.all(UNITS.map(readPid));
  const seen = [await pids()];
  await underLoad(async (goesOn) => {
    for (const heading of ['Upgrade', 'Roll back']) {
      await run(await readCommands(heading));
      await goesOn();
      seen.push(await pids());
    }
  });
  expect(new Set(seen.flat()).size).toBe(3 * UNITS.length);
  expect(await run('readlink /opt/opm/current /opt/opm/current-workers')).toBe('1.0.0\n1.0.0');
  expect(await run('systemctl list-units --state=failed --plain --no-legend "opm*"')).toBe('');
});

test('a killed process and a frozen process start again, and no entry is lost', async () => {
  const units = ['opm-worker@9411', 'opm-ingress@3010'];
  const before = await Promise.all(units.map(readPid));
  await underLoad(async () => {
    await run(`kill -9 ${before[0]}; kill -STOP ${before[1]}; systemctl start kill-frozen-opm`);
    await waitFor(
      async () => {
        const states = await run(`systemctl is-active ${units.join(' ')} || true`);
        const now = await Promise.all(units.map(readPid));
        return states === 'active\nactive' && now.every((pid, n) => pid !== before[n]);
      },
      { description: 'both units to start again' },
    );
  });
});

test('a unit whose process does not become ready fails, and says why', async () => {
  await expect(run('systemctl start opm-ingress@3001')).rejects.toThrow('failed');
  await run('systemctl stop opm-ingress@3001');
  expect(await run('journalctl --unit opm-ingress@3001 --output cat')).toContain(
    'port 3001 is taken by another program',
  );
});

test('no secret is in an environment, a command line, a property of a unit or the journal', async () => {
  const passwords = await run(`cd /etc/opm/secrets; for file in *-password *-url; do cat $file; echo; done`);
  const secrets = passwords.match(/[0-9a-f]{48}/g) ?? [];
  expect(new Set(secrets).size).toBe(14);
  const shown = await run(
    `for file in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do tr '\\0' '\\n' <$file || true; done
     systemctl show 'opm-*'; journalctl --output export`,
  );
  expect(shown).toContain('/run/credentials/opm-console.service/console-password');
  for (const secret of [superuser, project.apiKey, ...secrets]) expect(shown).not.toContain(secret);
});

test('a breached process can run no program, write no file, and reach no secret of others and no other machine', async () => {
  const attack = `
    const { readdirSync, readFileSync, writeFileSync } = require('node:fs');
    const attempts = {
      shell: () => require('node:child_process').execFileSync('/bin/sh', ['-c', 'true']),
      code: () => writeFileSync('/opt/opm/evil', ''),
      home: () => readdirSync('/root'),
      secrets: () => readdirSync('/etc/opm/secrets'),
      credentials: () => readdirSync('/run/credentials/opm-worker@9411.service'),
      processes: () => readFileSync('/proc/1/environ'),
    };
    for (const [name, attempt] of Object.entries(attempts)) {
      try { attempt(); console.log(name, 'succeeds'); } catch (error) { console.log(name, error.code); }
    }
    const socket = require('node:dgram').createSocket('udp4');
    socket.send('', 53, '203.0.113.1', (error) => socket.close(console.log('network', error ? error.code : 'succeeds')));`;
  const unit = `[Service]\nType=oneshot\nExecStart=/usr/bin/node -e "${attack.replaceAll('\n', ' ')}"\n`;
  await run(
    `cat >/etc/systemd/system/opm-attacker.service <<'EOF'\n${unit}EOF\nsystemctl daemon-reload; systemctl start opm-attacker`,
  );
  const lines = (await run('journalctl --identifier opm-attacker --output cat')).split('\n');
  expect(lines).toEqual([
    'shell EACCES',
    'code EACCES',
    'home EACCES',
    'secrets EACCES',
    'credentials EACCES',
    'processes ENOENT',
    'network EPERM',
  ]);
});
