import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { query, runOpm, waitFor } from '@opm/testkit';
import { startFront } from '../start-front.js';
import { findReach } from './attacker.js';
import { type ComposeProject, createComposeProject, findFreePorts, readCommands } from './compose-project.js';
import { findDevelopmentPackages, toPackageName } from './development-packages.js';
import { type Load, startLoad } from './load.js';
import { createRows, type Rows } from './rows.js';

type Scraped = { labels: { job: string }; health: string };
type Project = { projectId: number; apiKey: string };

const APPS = ['ingress', 'worker', 'console'];
/** Entries per second of the background load: moderate, because the machine also does other work. */
const RATE = 400;
/** Entries per second while workers are killed, so that they are busy. */
const BUSY_RATE = 2_000;

describe('docker compose up --wait --build', () => {
  let stack: ComposeProject;

  beforeAll(async () => {
    stack = await createComposeProject('main');
    await stack.compose('up', '--wait', '--build');
  });
  afterAll(() => stack.drop());

  /** Runs the command line on the host, because a container takes seconds longer. */
  async function opm(...args: string[]): Promise<string> {
    const { code, stdout, stderr } = await runOpm(args, { DATABASE_URL: stack.databaseUrl });
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    return stdout;
  }
  const createProject = async (name: string): Promise<Project> =>
    JSON.parse(await opm('projects', 'create', name, '--json'));
  const scaleWorkers = (scale: number, ...options: string[]) =>
    stack.compose('up', '--wait', '--no-deps', '--scale', `worker=${scale}`, ...options, 'worker');

  /**
   * Runs `act` while partners send entries. All entries must be accepted, and the rows must be exactly these entries.
   */
  async function underLoad(
    name: string,
    act: (load: Load, rows: Rows) => Promise<void>,
    { rate = RATE, url = stack.url } = {},
  ): Promise<void> {
    const { projectId, apiKey } = await createProject(name);
    await opm('projects', 'limits', name, '--rate', String(rate), '--burst', String(rate));
    const rows = createRows(stack.databaseUrl, projectId);
    const load = startLoad({ url, apiKey });
    try {
      await load.goesOn();
      await act(load, rows);
      await load.goesOn();
      await load.end();
    } finally {
      await load.drop();
    }
    expect(load.failures).toEqual([]);
    await rows.catchUp(load.acknowledged);
    expect(await rows.findPhones()).toEqual(load.acknowledged);
  }

  /** Sends one entry for each of this many customers. A busy machine may refuse some. */
  async function burst(name: string, entries: number): Promise<{ accepted: number; unanswered: number; rows: Rows }> {
    const { projectId, apiKey } = await createProject(name);
    const args = ['burst', '--url', stack.url, '--entries', String(entries), '--json'];
    const { stdout } = await runOpm(args, { OPM_KEY: apiKey });
    const { accepted, unanswered } = JSON.parse(stdout);
    expect(accepted).toBeGreaterThan(0);
    return { accepted, unanswered, rows: createRows(stack.databaseUrl, projectId) };
  }

  test('builds all images, migrates, and all services are healthy', async () => {
    const { roles, migrate, grants, ...services } = await stack.inspectServices();
    for (const step of [roles, migrate, grants]) expect(step?.State).toMatchObject({ Status: 'exited', ExitCode: 0 });
    expect(Object.keys(services).sort()).toEqual(['console', 'ingress', 'postgres', 'redis', 'worker']);
    for (const { State } of Object.values(services)) {
      expect(State).toMatchObject({ Status: 'running', Health: { Status: 'healthy' } });
    }
  });

  test('publishes four ports, on 127.0.0.1 only', async () => {
    const services = Object.entries(await stack.inspectServices());
    const published = services.flatMap(([service, { NetworkSettings }]) =>
      Object.entries(NetworkSettings.Ports).flatMap(([port, places]) =>
        (places ?? []).map(({ HostIp, HostPort }) => `${service} ${port} at ${HostIp}:${HostPort}`),
      ),
    );
    const { ingress, console, postgres, redis } = stack.ports;
    expect(published.sort()).toEqual([
      `console 3001/tcp at 127.0.0.1:${console}`,
      `ingress 3000/tcp at 127.0.0.1:${ingress}`,
      `postgres 5432/tcp at 127.0.0.1:${postgres}`,
      `redis 6379/tcp at 127.0.0.1:${redis}`,
    ]);
  });

  test('a variable of .env reaches only the processes that read it, and an unset one reaches none', async () => {
    const read = async (service: string, ...names: string[]) => {
      const lines = (await stack.compose('exec', '--no-TTY', service, 'env')).split('\n');
      return lines.filter((line) => names.some((name) => line.startsWith(`${name}=`)));
    };
    const names = ['STATEMENT_MAX_ROWS', 'JOB_MAX_ATTEMPTS', 'LOG_LEVEL'];
    expect((await read('worker', ...names)).sort()).toEqual(['LOG_LEVEL=info', 'STATEMENT_MAX_ROWS=999']);
    expect(await read('ingress', ...names)).toEqual(['LOG_LEVEL=info']);
  });

  test('an attacker in a container reaches what its process needs, and nothing outside', async () => {
    const stores = ['postgres:5432', 'redis:6379'];
    // A store shares a network with each app. Docker publishes a port only from a network in which the machine has an
    // address.
    const apps = ['console:3001', 'ingress:3000', 'machine'];
    expect(await findReach(stack, `opm-worker:${stack.name}`)).toEqual({
      ingress: ['machine', ...stores],
      worker: stores,
      console: ['machine', ...stores],
      postgres: [...apps, 'redis:6379'].sort(),
      redis: [...apps, 'postgres:5432'].sort(),
    });
  });

  test('no password is in the settings, the process list or the image of a container', async () => {
    const { 'redis-users.acl': _hashes, ...secrets } = await stack.readSecrets();
    const passwords = Object.values(secrets).map((secret) => /:([^:@]+)@/.exec(secret)?.[1] ?? secret);
    expect(new Set(passwords).size).toBe(14);
    const containers = Object.values(await stack.inspectServices());
    const running = containers.filter(({ State }) => State.Status === 'running');
    const images = containers.map(({ Config }) => Config.Image);
    const shown = await Promise.all([
      JSON.stringify(containers),
      ...running.map(({ Id }) => stack.docker('top', Id, '-eo', 'pid,args')),
      ...images.map((image) => stack.docker('image', 'inspect', image)),
      ...images.map((image) => stack.docker('image', 'history', '--no-trunc', image)),
    ]);
    expect(shown.join('\n')).toContain('redis-server');
    expect(passwords.filter((password) => shown.join('\n').includes(password))).toEqual([]);
  });

  test('no container has an anonymous volume', async () => {
    const mounts = Object.values(await stack.inspectServices()).flatMap(({ Mounts }) => Mounts);
    const volumes = mounts.filter(({ Type }) => Type === 'volume').map(({ Name }) => Name);
    expect(volumes.sort()).toEqual([`${stack.name}_postgres`, `${stack.name}_redis`]);
  });

  const askRedis = (...args: string[]) => stack.compose('exec', '--no-TTY', 'redis', 'opm-redis-cli', ...args);

  test('Redis, containers and logs have limits', async () => {
    expect(await askRedis('config', 'get', 'maxmemory')).toBe(`maxmemory\n${1024 ** 3}`);
    const gigabytes: Record<string, number> = { postgres: 2, redis: 3 };
    for (const [service, { HostConfig }] of Object.entries(await stack.inspectServices())) {
      const { Memory, CpuQuota, PidsLimit, LogConfig } = HostConfig;
      const quota = service === 'postgres' ? 400_000 : 200_000;
      expect([service, Memory / 1024 ** 3, CpuQuota]).toEqual([service, gigabytes[service] ?? 1, quota]);
      expect(PidsLimit).toBeGreaterThan(0);
      expect(LogConfig).toEqual({ Type: 'json-file', Config: { 'max-size': '10m', 'max-file': '5' } });
    }
  });

  test('Redis writes an append-only file and no snapshots', async () => {
    const read = (name: string) => askRedis('config', 'get', name);
    expect(await Promise.all(['appendonly', 'save'].map(read))).toEqual(['appendonly\nyes', 'save']);
  });

  test.each(['postgres', 'redis'])(
    '%s runs without root and capabilities, on a read-only file system',
    async (store) => {
      const run = (...command: string[]) => stack.compose('exec', '--no-TTY', store, ...command);
      const status = await run('cat', '/proc/1/status');
      expect(/^Uid:\s+999$/m.test(status.replace(/^(Uid:\s+\d+).*$/m, '$1'))).toBe(true);
      expect(/^CapBnd:\s+0+$/m.test(status)).toBe(true);
      await expect(run('touch', '/etc/new')).rejects.toThrow('Read-only file system');
    },
  );

  describe.each(APPS)('%s', (service) => {
    const run = (...command: string[]) => stack.compose('exec', '--no-TTY', service, ...command);

    test('runs without root and capabilities, and can gain none', async () => {
      const status = await run('cat', '/proc/1/status');
      const read = (name: string) => new RegExp(`^${name}:\\s+(\\S+)`, 'm').exec(status)?.[1];
      const noCapability = '0'.repeat(16);
      expect(['Uid', 'CapEff', 'CapPrm', 'CapBnd', 'NoNewPrivs'].map(read)).toEqual([
        '1000',
        ...[noCapability, noCapability, noCapability],
        '1',
      ]);
    });

    test('cannot write to its root file system, even as root', async () => {
      const touch = stack.compose('exec', '--no-TTY', '--user', 'root', service, 'touch', '/opm/main.js', '/opm/new');
      await expect(touch).rejects.toThrow(/\/opm\/new.*Read-only file system/);
    });

    test('cannot change a table of PostgreSQL', async () => {
      const { username, password } = new URL(await run('cat', `/run/secrets/${service}-database-url`));
      const { href } = Object.assign(new URL(stack.databaseUrl), { username, password });
      await expect(query(href, 'SELECT FROM customers LIMIT 0')).resolves.toEqual([]);
      await expect(query(href, 'DROP TABLE customers')).rejects.toThrow('must be owner of table customers');
      await expect(query(href, 'SELECT pg_reload_conf()')).rejects.toThrow('permission denied');
    });

    test('contains neither the Prisma CLI nor development dependencies', async () => {
      const places = ['node_modules', `apps/${service}/node_modules`].flatMap((place) => [
        `${place}/*`,
        `${place}/@*/*`,
      ]);
      const listed = await run('sh', '-c', `ls -d ${places.join(' ')} 2>/dev/null || true`);
      const installed = listed.split('\n').map(toPackageName);
      expect(installed).toContain('pino');
      const unwanted = await findDevelopmentPackages();
      expect(installed.filter((name) => unwanted.has(name))).toEqual([]);
    });
  });

  test('each acknowledged entry of a burst is a row, and no refused one', async () => {
    const { accepted, unanswered, rows } = await burst('burst', 20_000);
    await rows.reach(accepted);
    expect(await rows.count()).toBeLessThanOrEqual(accepted + unanswered);
  });

  test('the command line runs in a container, and imports a mounted file as any user', async () => {
    const run = (...args: string[]) => stack.compose('run', '--rm', '--no-TTY', ...args);
    const { projectId }: Project = JSON.parse(await run('opm', 'projects', 'create', 'import', '--json'));
    const directory = await mkdtemp(join(tmpdir(), 'opm-import-'));
    try {
      await writeFile(join(directory, 'customers.csv'), 'customerId,customerPhone\njane,+1\njoe,+2\n');
      const user = `${process.getuid?.()}:${process.getgid?.()}`;
      const mount = ['--volume', `${directory}:/files`, '--workdir', '/files', '--user', user];
      await run(...mount, 'opm', 'customers', 'import', 'customers.csv', '--project', 'import');
    } finally {
      await rm(directory, { recursive: true });
    }
    await createRows(stack.databaseUrl, projectId).reach(2);
  });

  /** Signals the process inside the container: after `docker kill` Docker does not restart the container. */
  const signal = (container: string, name: 'STOP' | 'KILL') =>
    stack.docker('exec', '--detach', container, 'sh', '-c', `kill -${name} $(cat /proc/1/task/1/children)`);
  const readState = async (container: string) => (await stack.inspect([container]))[0]?.State;
  const isHealthySince = (container: string, startedAt: string | undefined) =>
    waitFor(
      async () => {
        const state = await readState(container);
        return state?.Health?.Status === 'healthy' && state.StartedAt !== startedAt;
      },
      { description: 'another start of the worker', timeoutMs: 60_000 },
    );

  test('four workers are killed one by one: entries are still acknowledged, and none is lost', async () => {
    await scaleWorkers(4);
    const workers = await stack.containersOf('worker');
    expect(workers).toHaveLength(4);
    const killAll = async (load: Load, rows: Rows) => {
      for (const worker of workers) {
        await rows.grow();
        await stack.docker('kill', '--signal', 'KILL', worker);
        await load.goesOn();
      }
      const states = (await stack.inspect(workers)).map(({ State }) => State.ExitCode);
      expect(states).toEqual([137, 137, 137, 137]);
      await scaleWorkers(2);
      await rows.grow();
    };
    await underLoad('kills', killAll, { rate: BUSY_RATE });
  });

  test('deploy/restart-frozen.sh restarts a frozen worker, and Docker a crashed one', async () => {
    const [restartFrozen = ''] = await readCommands('docs/runbook.md', 'A process is frozen or killed');
    const [worker = ''] = await stack.containersOf('worker');
    const begin = (await readState(worker))?.StartedAt;
    await signal(worker, 'STOP');
    const isUnhealthy = async () => (await readState(worker))?.Health?.Status === 'unhealthy';
    await waitFor(isUnhealthy, { description: 'Docker to notice it', timeoutMs: 120_000 });
    await stack.run(restartFrozen);
    await isHealthySince(worker, begin);
    const restart = (await readState(worker))?.StartedAt;
    await signal(worker, 'KILL');
    await isHealthySince(worker, restart);
  });

  test('workers and then the ingress are replaced under load: a client that retries gets every entry accepted', async () => {
    const findAll = async () => [...(await stack.containersOf('worker')), ...(await stack.containersOf('ingress'))];
    await scaleWorkers(2);
    const before = await findAll();
    await underLoad('deploy', async (load, rows) => {
      await scaleWorkers(2, '--force-recreate');
      await rows.grow();
      await load.goesOn();
      await stack.compose('up', '--wait', '--no-deps', '--force-recreate', 'ingress');
    });
    const after = await findAll();
    expect(after).toHaveLength(3);
    expect(after.filter((id) => before.includes(id))).toEqual([]);
  });

  test('the command in docs/upgrade.md upgrades two ingresses: behind nginx with deploy/nginx.conf, every request gets an answer of an ingress', async () => {
    const [upgrade = ''] = await readCommands('docs/upgrade.md', 'Upgrade');
    const ports = await findFreePorts(4);
    const front = await startFront(ports);
    try {
      // With these limits an ingress on a slow machine refuses nothing, and still answers before nginx gives up.
      const patient = { ANSWER_TIMEOUT_MS: '9000', EVENT_LOOP_MAX_DELAY_MS: '600000' };
      const twice = { PORT: `${ports[0]}-${ports.at(-1)}`, INGRESSES: '2', WORKERS: '2', TRUSTED_PROXIES: '1' };
      await stack.change({ ...twice, ...patient });
      await stack.compose('up', '--wait');
      const before = await stack.containersOf('ingress');
      await stack.change({ IMAGE_TAG: `${stack.name}-next` });
      await underLoad('upgrade', () => stack.run(upgrade), { url: front.url });
      const answers = await front.readAnswers();
      expect(answers.length).toBeGreaterThan(400);
      expect(answers.filter((answer) => !/^(201|202|207|429) /.test(answer))).toEqual([]);
      const after = await stack.containersOf('ingress');
      expect(after).toHaveLength(2);
      expect(after.filter((id) => before.includes(id))).toEqual([]);
      const ingresses = await stack.inspect(after);
      const images = ingresses.map(({ Config }) => Config.Image);
      expect(images).toEqual(Array(2).fill(`opm-ingress:${stack.name}-next`));
      // Workers first: an old worker may not be able to read the jobs of a new ingress.
      for (const { State } of await stack.inspect(await stack.containersOf('worker'))) {
        for (const ingress of ingresses)
          expect(Date.parse(State.StartedAt)).toBeLessThan(Date.parse(ingress.State.StartedAt));
      }
    } finally {
      await front.stop();
      await stack.change({ PORT: stack.ports.ingress, INGRESSES: '1', TRUSTED_PROXIES: '0' });
      await stack.compose('up', '--wait');
    }
  });

  test('a backup as in docs/backup.md restores deleted data and a lost volume, and a key revoked after the backup is refused from the first request on', async () => {
    const [dump = '', restore = '', redo = '', open = ''] = await readCommands('docs/backup.md', 'Backup and restore');
    const { apiKey } = await createProject('leaked');
    const [{ keyId }] = JSON.parse(await opm('keys', 'list', 'leaked', '--json'));
    const redoIt = redo.replaceAll('acme', 'leaked').replaceAll('ID', String(keyId));
    const ping = async () => (await fetch(`${stack.url}/ping`, { headers: { 'x-api-key': apiKey } })).status;
    const damages = [
      () => query(stack.databaseUrl, 'TRUNCATE customers, projects CASCADE'),
      async () => {
        await stack.compose('rm', '--stop', '--force', 'postgres');
        await stack.docker('volume', 'rm', `${stack.name}_postgres`);
      },
    ];
    const count = () =>
      query(stack.databaseUrl, 'SELECT (SELECT count(*) FROM customers), (SELECT count(*) FROM api_keys) AS keys');
    const findKeyed = () => askRedis('--scan', '--pattern', '*:keyed*');
    expect(await findKeyed()).not.toHaveLength(0);
    expect(await ping()).toBe(200);
    const before = await count();
    await stack.run(dump);
    await opm('keys', 'revoke', 'leaked');
    for (const damage of damages) {
      await damage();
      await stack.run(restore);
      expect(await count()).toEqual(before);
      expect(await findKeyed()).toHaveLength(0);
      await expect(ping()).rejects.toThrow('fetch failed'); // The ingresses are not started yet.
      await stack.run(redoIt);
      const first = waitFor(ping, { description: 'the first answer', timeoutMs: 300_000 });
      await Promise.all([first, stack.run(open)]);
      expect(await first).toBe(401);
    }
    await underLoad('restored', async () => {});
  });

  test('Redis is killed under load: acknowledged entries are there when it is back', async () => {
    await underLoad('crash', async (load) => {
      // Without workers, acknowledged entries are only in Redis.
      await stack.compose('stop', 'worker');
      await load.goesOn();
      await stack.compose('kill', '--signal', 'KILL', 'redis');
      await stack.compose('up', '--wait', '--no-deps', 'redis');
      await load.goesOn();
      await scaleWorkers(2);
    });
  });

  test('docker compose stop lets each app drain and exit with 0', async () => {
    await underLoad('stop', async () => {
      await stack.compose('stop', ...APPS);
      const ids = (await Promise.all(APPS.map(stack.containersOf))).flat();
      const states = (await stack.inspect(ids)).map(({ State }) => State);
      expect(states).toHaveLength(4);
      for (const state of states) expect(state).toMatchObject({ Status: 'exited', ExitCode: 0, OOMKilled: false });
      await stack.compose('up', '--wait');
    });
  });

  test('docker compose down removes all containers and keeps the data', async () => {
    const { accepted, rows } = await burst('kept', 100);
    await stack.compose('down');
    expect(await stack.list('container')).toEqual([]);
    expect(await stack.list('network')).toEqual([]);
    await stack.compose('up', '--wait');
    await rows.reach(accepted);
  });

  test('the commands in docs/secrets.md change passwords: the old ones are refused, and no entry is', async () => {
    const [ofWorker = '', undoSettings = '', ofSuperuser = '', ofRedis = ''] = await readCommands(
      'docs/secrets.md',
      'Change a secret of Docker Compose',
    );
    const before = await stack.readSecrets();
    const toHost = (name: string, { [name]: url = '' }: Record<string, string>) =>
      url.replace('@postgres:5432', `@127.0.0.1:${stack.ports.postgres}`);
    const canLogIn = (url: string) =>
      query(url, 'SELECT 1').then(
        () => true,
        ({ message }) => !/password authentication failed/.test(message) && Promise.reject(new Error(message)),
      );
    await underLoad('rotation', async (load) => {
      await stack.run(ofWorker);
      await stack.run(undoSettings);
      await load.goesOn();
    });
    await stack.run(ofRedis);
    await stack.run(ofSuperuser);
    const after = await stack.readSecrets();
    const changed = Object.keys(after).filter((name) => after[name] !== before[name]);
    expect(changed.sort()).toEqual([
      ...['postgres-password', 'redis-operator-password', 'redis-replication-password', 'redis-users.acl'],
      ...['worker-database-url', 'worker-redis-url'],
    ]);
    expect(await canLogIn(toHost('worker-database-url', before))).toBe(false);
    expect(await canLogIn(toHost('worker-database-url', after))).toBe(true);
    expect(await canLogIn(stack.databaseUrl)).toBe(false);
    expect(await askRedis('acl', 'whoami')).toBe('operator');
    await stack.compose('up', '--wait');
  });

  test('with the profile observability, a Prometheus reaches each process and evaluates the alerts', async () => {
    const image = `opm-prometheus:${stack.name}`;
    await stack.docker('build', '--tag', image, '--file', 'tests/docker/prometheus.Dockerfile', 'tests/docker');
    const [port] = await findFreePorts(1);
    await stack.change({
      COMPOSE_PROFILES: 'all,observability',
      INTERNAL_HOST: '0.0.0.0',
      PROMETHEUS_PORT: String(port),
    });
    const folder = await mkdtemp(join(tmpdir(), 'opm-prometheus-'));
    await writeFile(join(folder, 'image.yml'), JSON.stringify({ services: { prometheus: { image } } }));
    await stack.compose('--file', join(folder, 'image.yml'), 'up', '--wait');
    await rm(folder, { recursive: true });

    const ask = async (path: string) => (await (await fetch(`http://127.0.0.1:${port}/api/v1/${path}`)).json()).data;
    const findStates = async (): Promise<string> => {
      const [{ activeTargets }, { groups }] = await Promise.all([ask('targets'), ask('rules')]);
      const targets = activeTargets.map(({ labels, health }: Scraped) => `${labels.job} ${health}`);
      const rules = groups.flatMap(({ rules }: { rules: { health: string }[] }) => rules.map(({ health }) => health));
      return JSON.stringify([...new Set([...targets, ...rules])].sort());
    };
    const healthy = JSON.stringify(['ok', 'opm-console up', 'opm-ingress up', 'opm-worker up']);
    await waitFor(async () => (await findStates()) === healthy, { description: 'targets and rules that are healthy' });
  });

  test('docker compose down --volumes removes everything', async () => {
    expect(await stack.list('volume')).toHaveLength(3);
    await stack.compose('down', '--volumes');
    expect(await stack.list('container')).toEqual([]);
    expect(await stack.list('volume')).toEqual([]);
  });
});
