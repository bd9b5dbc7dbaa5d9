import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { chmod, chown, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { delimiter, dirname, join, resolve } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { findFreePort } from '@opm/embedded';
import { createStore } from '@opm/store';
import {
  ANSWER_TIMEOUT_MS,
  findProgram,
  findShellCheck,
  query,
  runOpm,
  startApp,
  type TestApp,
  testPrefix,
  waitFor,
} from '@opm/testkit';
import { createClearLeftovers } from '../packages/queue/src/clear-leftovers.js';
import { connectQueueBackend } from '../packages/queue/src/queue-backend.js';
import { toAddresses } from '../packages/queue/src/queue-store.js';

const SCRIPTS = resolve('deploy/backup');
const SHARDS = 2;
/** The container's database has this name, too. */
const DATABASE = 'opm';

let directory: string;
let account: { uid?: number; gid?: number } = {};
let programs: string;
let port: number;
let backup: ChildProcess;
let redisEnv: NodeJS.ProcessEnv;
let databaseUrl: string;

const sh = async (script: string, env: NodeJS.ProcessEnv = {}): Promise<string> => {
  const options = { cwd: directory, env: { ...toEnv(), ...env }, ...account };
  return (await promisify(execFile)('sh', ['-ec', script], options)).stdout.trim();
};
const toEnv = (): NodeJS.ProcessEnv => ({
  PATH: `${process.env.PATH}${delimiter}${programs}`,
  ...{ HOME: directory, LC_ALL: 'C', PGHOST: directory, PGPORT: String(port), PGUSER: 'postgres' },
});
const control = (action: string, data: string) =>
  sh(
    `pg_ctl ${action} --pgdata=${data} --wait --log=${data}.log --options="-p ${port} -k ${directory} -c fsync=off \\
      -c listen_addresses=127.0.0.1 -c max_slot_wal_keep_size=192MB" >/dev/null`,
  );
/** In the folder of the backups. */
const list = (pattern: string) =>
  sh(`cd backups && ls -d ${pattern} 2>/dev/null || true`).then((text) => text.split('\n'));
const isHealthy = () =>
  sh(`${SCRIPTS}/healthy.sh linked`).then(
    () => true,
    () => false,
  );
const untilHealthy = () => waitFor(isHealthy, { description: 'a healthy backup' });

beforeAll(async () => {
  const found = await findProgram({
    title: 'PostgreSQL',
    names: ['pg_ctlcluster', 'pg_ctl'],
    aptPackages: ['postgresql'],
    otherwise: 'brew install postgresql@17 (or your package manager)',
  });
  const versions = await readdir('/usr/lib/postgresql').catch(() => []);
  const newest = versions.sort((a, b) => Number(a) - Number(b)).at(-1);
  programs = newest ? `/usr/lib/postgresql/${newest}/bin` : dirname(found);
  directory = await mkdtemp(join(tmpdir(), 'opm-backup-'));
  await chmod(directory, 0o755);
  if (process.geteuid?.() === 0) {
    const read = async (option: string) => Number((await promisify(execFile)('id', [option, 'postgres'])).stdout);
    account = { uid: await read('-u'), gid: await read('-g') };
    await chown(directory, account.uid ?? 0, account.gid ?? 0);
  }
  port = await findFreePort();
  databaseUrl = `postgresql://postgres@127.0.0.1:${port}/${DATABASE}`;
  redisEnv = {
    REDIS_URL: process.env.OPM_TEST_REDIS_URL,
    REDIS_PREFIX: testPrefix(),
    QUEUE_SHARDS: String(SHARDS),
  };
  await sh(
    'initdb --pgdata=data --username=postgres --auth=trust --no-sync >/dev/null; mkdir backups; ln -s backups linked',
  );
  await control('start', 'data');
  await sh(`createdb ${DATABASE}`);
  await opm('migrate');
  backup = spawn(join(SCRIPTS, 'backup.sh'), [join(directory, 'backups'), '2', '0'], {
    ...{ cwd: directory, env: toEnv(), ...account },
    ...{ detached: true, stdio: 'ignore' },
  });
});
afterAll(async () => {
  process.kill(-(backup.pid as number), 'SIGKILL'); // its group, with the receiver
  await control('stop --mode=immediate', 'restored').catch(() => {});
  await control('stop --mode=immediate', 'data').catch(() => {});
  await rm(directory, { recursive: true });
});

const opm = async (...args: string[]): Promise<string> => {
  const { code, stdout, stderr } = await runOpm(args, { DATABASE_URL: databaseUrl, ...redisEnv });
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  return stdout;
};
const run = (name: 'ingress' | 'worker') => startApp(name, { DATABASE_URL: databaseUrl, ...redisEnv });

/** Fills this many files of WAL. */
async function fillWal(files: number): Promise<void> {
  for (let n = 0; n < files; n++) {
    await query(databaseUrl, "SELECT pg_switch_wal() FROM pg_create_restore_point('backup.test')");
  }
}

/** Does what a worker does every half a minute, but takes what was admitted before this call as old. */
async function noteFinished(): Promise<void> {
  const config = {
    databaseUrl,
    redisUrl: redisEnv.REDIS_URL,
    prefix: redisEnv.REDIS_PREFIX as string,
    shards: SHARDS,
    answerTimeoutMs: ANSWER_TIMEOUT_MS,
  };
  const backend = await connectQueueBackend(config, 'worker', {
    signal: new AbortController().signal,
    onError: () => {},
  });
  const queues = await Promise.all(toAddresses(SHARDS).map((address) => backend.openQueue(address)));
  const { observe, clear } = createClearLeftovers(backend.admission, queues, backend.readClock, 0);
  const store = createStore({ databaseUrl, applicationName: 'test' });
  await observe();
  await store.mark.noteFinished((await clear()) as number);
  await store.close();
  await backend.close();
}

type Sent = { customerId: string; customerEmail: string; key: string; sentAt: number };

test('after a restore to a point in time, opm restored names a window with each lost entry, and sending those again makes all rows right', async () => {
  const { apiKey } = JSON.parse(await opm('projects', 'create', 'acme', '--json'));
  await untilHealthy();
  const ledger: Sent[] = [];
  let ingress = await run('ingress');
  let worker: TestApp | undefined = await run('worker');

  async function post({ customerId, customerEmail, key }: Omit<Sent, 'sentAt'>): Promise<void> {
    const response = await fetch(`${ingress.url}/entry`, {
      method: 'POST',
      headers: { 'x-api-key': apiKey, 'content-type': 'application/json', 'idempotency-key': key },
      body: JSON.stringify({ customerId, customerEmail }),
    });
    expect([201, 202]).toContain(response.status);
    expect(response.headers.get('idempotent-replayed')).toBeNull();
    await response.arrayBuffer();
  }
  const send = async (name: string) => {
    for (const customer of ['new', 'updated']) {
      const customerId = customer === 'new' ? name : customer;
      const entry = {
        customerId,
        customerEmail: `${name}@example.com`,
        key: `${customer}-${name}`,
        sentAt: Date.now(),
      };
      await post(entry);
      ledger.push(entry);
    }
  };
  const readRows = async () => {
    const rows = await query<{ customer_id: string; email: string }>(
      databaseUrl,
      'SELECT customer_id, email FROM customers',
    );
    return new Map(rows.map((row) => [row.customer_id, row.email]));
  };
  const toRows = (entries: Sent[]) =>
    new Map(entries.map(({ customerId, customerEmail }) => [customerId, customerEmail]));
  const untilRows = (entries: Sent[]) =>
    waitFor(
      async () => {
        const rows = await readRows();
        return [...toRows(entries)].every(([id, email]) => rows.get(id) === email);
      },
      { description: 'the rows' },
    );
  const stopWorker = async () => {
    await worker?.stop();
    worker = undefined;
  };

  await send('stored');
  await untilRows(ledger);
  await stopWorker();
  await send('waiting'); // acknowledged before the point in time, and stored after it
  await noteFinished();
  const kept = ledger.filter(({ key }) => key.endsWith('-stored'));
  const [{ time = '' } = {}] = await query<{ time: string }>(
    databaseUrl,
    `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS time`,
  );
  worker = await run('worker');
  await send('lost');
  await untilRows(ledger);
  await noteFinished();
  await stopWorker();
  await send('queued');
  await ingress.stop();

  await sh(`${SCRIPTS}/drill.sh backups`);
  await sh(`${SCRIPTS}/restore.sh backups restored ${time}`);
  await expect(sh(`${SCRIPTS}/restore.sh backups never 2100-01-01T00:00:00Z`)).rejects.toThrow(
    'before configured recovery target',
  );
  expect(await readdir(join(directory, 'never'))).toEqual([]);
  await control('stop', 'data');
  await control('start', 'restored');
  expect(await readRows()).toEqual(toRows(kept));

  const window = JSON.parse(await opm('restored', '--json'));
  expect(window).toMatchObject({ isEndKnown: true, isEmpty: false, waiting: { entries: 2 } });
  expect(await query(databaseUrl, 'SELECT FROM processes')).toEqual([]); // those of then do not run
  const [from, to] = [Date.parse(window.from), Date.parse(window.to)];
  const again = ledger.filter(({ sentAt }) => sentAt >= from && sentAt <= to);
  expect(again.filter(({ key }) => !kept.some((entry) => entry.key === key))).toHaveLength(6);
  [ingress, worker] = await Promise.all([run('ingress'), run('worker')]);
  for (const entry of again) await post(entry);
  await untilRows(ledger);
  expect(await readRows()).toEqual(toRows(ledger));
  await Promise.all([ingress.stop(), worker.stop()]);
});

test('opm restored names nothing if all is stored, gives no end if the queue lost its versions, and refuses to run beside a worker', async () => {
  await noteFinished();
  expect(JSON.parse(await opm('restored', '--dry-run', '--json'))).toMatchObject({ isEndKnown: true, isEmpty: true });
  const emptied = { ...redisEnv, REDIS_PREFIX: testPrefix() };
  const { stdout } = await runOpm(['restored', '--dry-run', '--json'], { DATABASE_URL: databaseUrl, ...emptied });
  expect(JSON.parse(stdout)).toMatchObject({ isEndKnown: false, isEmpty: false, waiting: { entries: 0 } });
  const worker = await run('worker');
  const { code, stderr } = await runOpm(['restored'], { DATABASE_URL: databaseUrl, ...redisEnv });
  await worker.stop();
  expect([code, stderr]).toEqual([1, expect.stringContaining('workers run')]);
});

test('a new series begins after a restore, and if PostgreSQL no longer has the WAL that continues the old one', async () => {
  await untilHealthy();
  expect(await list('2*Z')).toHaveLength(2);
  process.kill(-(backup.pid as number), 'SIGSTOP');
  await query(databaseUrl, 'SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots');
  await fillWal(16);
  await query(databaseUrl, 'CHECKPOINT');
  expect(await query(databaseUrl, 'SELECT wal_status FROM pg_replication_slots')).toEqual([{ wal_status: 'lost' }]);
  process.kill(-(backup.pid as number), 'SIGCONT');
  await waitFor(async () => (await list('2*Z')).length === 3, { description: 'a third series' });
  await untilHealthy();
});

test('only the newest base backups stay, and the WAL from the oldest of them on', async () => {
  await fillWal(2);
  await sh(`${SCRIPTS}/base.sh backups 2`);
  await fillWal(2);
  await sh(`${SCRIPTS}/base.sh backups 2`);
  expect(await list('2*Z')).toHaveLength(1);
  const [oldest, ...others] = await list('2*Z/base-*');
  expect(others).toHaveLength(1);
  const label = await sh(`tar -xzOf backups/${oldest}/base.tar.gz backup_label`);
  const [, start] = /\(file ([0-9A-F]+)\)/.exec(label) ?? [];
  expect((await list(`2*Z/wal/${'?'.repeat(24)}`)).sort()[0]).toMatch(new RegExp(`/${start}$`));
});

/** The block of commands of a guide that has this text. */
const readBlock = (guide: string, text: string) =>
  [...guide.matchAll(/^```sh\n(.*?)^```$/gms)].map(([, commands = '']) => commands).find((it) => it.includes(text)) ??
  '';

/**
 * Runs commands beside docker-compose.yml, with a `docker` that has no volume of PostgreSQL, and restores to
 * `elsewhere`.
 */
async function onNewMachine(commands: string): Promise<string> {
  const docker = `#!/bin/sh
case $* in
  'volume rm --force opm_postgres' | 'volume create opm-backup' | 'compose stop '* | 'compose rm '* | 'compose up '*) ;;
  'compose run --rm --no-deps -T --entrypoint tar backup '*) [ -e docker-compose.yml ] && tar -xC ../volume ;;
  'compose run --rm restore '*) '${SCRIPTS}/restore.sh' ../volume ../elsewhere ;;
  *) echo "docker $*" >&2; exit 1 ;;
esac
`;
  await sh(
    `mkdir bin clone volume; touch clone/docker-compose.yml; cat >bin/docker <<'END'\n${docker}END\nchmod +x bin/docker`,
  );
  await sh(`cat >restore.sh <<'END'\n${commands}END`);
  return sh('cd clone; PATH=$PWD/../bin:$PATH sh -e ../restore.sh');
}

test('offsite.sh refuses a folder without backups, and keeps the copy', async () => {
  await sh('mkdir -p kept/20260101T000000Z/wal empty; touch kept/20260101T000000Z/wal/x.gz.age');
  for (const folder of ['missing', 'empty'])
    await expect(sh(`${SCRIPTS}/offsite.sh ${folder} kept opm-backup.pub`)).rejects.toThrow(
      `${folder} has no base backup`,
    );
  expect(await sh('find kept -type f')).toBe('kept/20260101T000000Z/wal/x.gz.age');
});

test('what the other host removes after a month is never the secrets', async () => {
  const [, remove = ''] = /`(find opm\S* [^`]*-delete)`/.exec(await readFile('docs/backup.md', 'utf8')) ?? [];
  await sh(
    'mkdir -p opm/20260101T000000Z/wal; touch -d 2026-01-01 opm/20260101T000000Z/wal/x.gz.age opm/secrets.tar.gz.age',
  );
  await sh(remove);
  expect(await sh('find opm -type f')).toBe('opm/secrets.tar.gz.age');
});

test('the copy for another host is encrypted, and restores with the private key', async () => {
  await findProgram({ title: 'age', names: ['age'], aptPackages: ['age'], otherwise: 'brew install age' });
  const guide = await readFile('docs/backup.md', 'utf8');
  const decrypt = /^find \. -name '\*\.age' .*$/m.exec(guide)?.[0] ?? '';
  await sh('age-keygen -o opm-backup.key 2>/dev/null; age-keygen -y opm-backup.key >opm-backup.pub');
  await query(databaseUrl, `UPDATE customers SET email = 'last@example.com'`);
  const [{ lsn = '', file = '' } = {}] = await query<{ lsn: string; file: string }>(
    databaseUrl,
    'SELECT lsn, pg_walfile_name(lsn) AS file FROM pg_current_wal_lsn() AS lsn',
  );
  await fillWal(1);
  await waitFor(async () => (await list(`2*Z/wal/${file}`))[0] !== '', { description: 'the WAL' });
  for (const folder of ['backups', 'linked']) await sh(`${SCRIPTS}/offsite.sh ${folder} copy opm-backup.pub`);
  expect(await sh('grep -rl last@example.com copy || true')).toBe('');
  await writeFile(join(directory, 'decrypt.sh'), decrypt);
  await sh('cp opm-backup.key copy && cd copy && sh ../decrypt.sh');
  const printed = await onNewMachine(
    `${readBlock(guide, 'COPY').replace('COPY', '../copy')}\n${readBlock(guide, ' restore ')}`,
  );
  const [, replayed = ''] = /replayed to (\S+)/.exec(printed) ?? [];
  expect(await query(databaseUrl, 'SELECT $1::pg_lsn >= $2::pg_lsn AS complete', [replayed, lsn])).toEqual([
    { complete: true },
  ]);
});

test('ShellCheck finds no problem in the scripts', async () => {
  await promisify(execFile)(
    await findShellCheck(),
    ['-x', ...(await readdir(SCRIPTS)).filter((name) => name.endsWith('.sh'))],
    { cwd: SCRIPTS },
  );
});
