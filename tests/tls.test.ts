import { chown, mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { type EmbeddedPostgres, findFreePort, startEmbeddedPostgres } from '@opm/embedded';
import { query, runOpm, startApp, startLocalRedis, startProcess, testPrefix, waitFor } from '@opm/testkit';
import { type Certificates, createCertificates } from './create-certificates.js';
import { expectWorks } from './expect-works.js';

let directory: string;
let certificates: Certificates;
let postgres: EmbeddedPostgres;
let redis: Awaited<ReturnType<typeof startTlsRedis>>;

/** Both servers accept only TLS connections. */
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'opm-tls-'));
  certificates = await createCertificates(directory);
  redis = await startTlsRedis();
  postgres = await startTlsPostgres();
});
afterAll(async () => {
  await postgres.stop();
  await redis.stop();
  await rm(directory, { recursive: true });
});

async function startTlsRedis() {
  const port = await findFreePort();
  const { ca, cert, key } = certificates;
  const files = ['--tls-ca-cert-file', ca, '--tls-cert-file', cert, '--tls-key-file', key, '--tls-auth-clients', 'no'];
  const flags = ['--port', '0', '--tls-port', String(port), ...files, '--appendonly', 'no'];
  const { stop } = await startLocalRedis({ directory, port, flags });
  return { url: `rediss://127.0.0.1:${port}`, stop };
}

async function startTlsPostgres(): Promise<EmbeddedPostgres> {
  const dataDir = join(directory, 'postgres');
  const server = await startEmbeddedPostgres({ dataDir, postgresFlags: ['fsync=off'] });
  // PostgreSQL only reads a key that its own account owns.
  const { uid, gid } = await stat(dataDir);
  const [key, cert] = [join(dataDir, 'server.key'), join(dataDir, 'server.crt')];
  for (const [from, to] of [
    [certificates.key, key],
    [certificates.cert, cert],
  ] as const) {
    await writeFile(to, await readFile(from), { mode: 0o600 });
    await chown(to, uid, gid);
  }
  const [row] = await query<{ file: string }>(server.url, `SELECT current_setting('hba_file') AS file`);
  const rules = await readFile(row?.file ?? '', 'utf8');
  await writeFile(row?.file ?? '', rules.replace(/^host\b/gm, 'hostssl'));
  for (const [name, value] of [
    ['ssl_key_file', key],
    ['ssl_cert_file', cert],
    ['ssl', 'on'],
  ]) {
    await query(server.url, `ALTER SYSTEM SET ${name} = '${value}'`);
  }
  await query(server.url, 'SELECT pg_reload_conf()');
  await waitFor(
    () =>
      query(server.url, 'SELECT 1').then(
        () => false,
        () => true,
      ),
    { description: 'PostgreSQL to refuse unencrypted connections' },
  );
  return server;
}

const verified = () => `${postgres.url}?sslmode=verify-full&sslrootcert=${encodeURIComponent(certificates.ca)}`;
const trusting = () => ({ REDIS_URL: redis.url, NODE_EXTRA_CA_CERTS: certificates.ca });

test.each([
  ['Redis, with a certificate that NODE_EXTRA_CA_CERTS trusts', trusting],
  ['PostgreSQL', () => ({ REDIS_URL: '' })],
])('everything works over TLS only: the queue on %s', async (name, toEnv) => {
  const env = { DATABASE_URL: verified(), REDIS_PREFIX: testPrefix(), CONSOLE_PASSWORD: 'secret', ...toEnv() };
  await expectWorks(env, name);
});

/** The URL of a trusted server under another name than that of its certificate. */
const renamed = (url: string) => url.replace('127.0.0.1', 'localhost');
const UNTRUSTED = /self-signed certificate in certificate chain|unable to verify the first certificate/;
const OTHER_NAME = /Hostname\/IP does not match certificate's altnames: Host: localhost/;

test.each([
  ['is not trusted', UNTRUSTED, () => ({ NODE_EXTRA_CA_CERTS: '' })],
  ['is for another name', OTHER_NAME, () => ({ REDIS_URL: renamed(redis.url) })],
])('a Redis whose certificate %s is refused, and the log says why', async (_, reason, toEnv) => {
  const env = { DATABASE_URL: verified(), ...trusting(), ...toEnv(), CONSOLE_PASSWORD: 'secret' };
  for (const name of ['ingress', 'worker', 'console']) {
    const file = `apps/${name}/dist/main.js`;
    const app = await startProcess({ file, env: { ...env, PORT: '0', INTERNAL_PORT: '0' }, readyOutput: reason });
    expect(app.output()).not.toMatch(/"msg":"(accepting entries|taking jobs|console is up)"/);
    expect(await app.stop()).toEqual({ code: 0, signal: null });
  }
});

test.each([
  ['is not trusted', UNTRUSTED, 4, () => `${postgres.url}?sslmode=verify-full`],
  ['is not trusted, with sslmode=require', UNTRUSTED, 4, () => `${postgres.url}?sslmode=require`],
  ['is for another name', OTHER_NAME, 4, () => renamed(verified())],
  [
    'is to be checked with a missing file',
    /ENOENT.*nowhere.crt/,
    1,
    () => verified().replace(/\w+.crt$/, 'nowhere.crt'),
  ],
])('a PostgreSQL whose certificate %s is refused, and /readyz and `opm` say why', async (_, reason, code, toUrl) => {
  const env = { DATABASE_URL: toUrl(), ...trusting(), NODE_EXTRA_CA_CERTS: '' };
  const stderr = expect.stringMatching(reason);
  expect(await runOpm(['migrate'], env)).toMatchObject({ code, stderr });
  expect(await runOpm(['projects', 'list'], env)).toMatchObject({ code: 4, stderr });
  for (const name of ['ingress', 'worker'] as const) {
    const port = String(await findFreePort());
    const app = await startApp(name, { ...env, REDIS_URL: process.env.OPM_TEST_REDIS_URL, INTERNAL_PORT: port });
    const saysWhy = async () => {
      const readyz = await fetch(`http://127.0.0.1:${port}/readyz`);
      const { checks } = (await readyz.json()) as { checks: { postgres?: string } };
      return readyz.status === 503 && reason.test(checks.postgres ?? '');
    };
    await waitFor(saysWhy, { description: 'the reason' }); // A slow machine first reports a timeout.
    expect(await app.stop()).toEqual({ code: 0, signal: null });
  }
});
