import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from '@jest/globals';
import { findPsql, type LocalRedis, startLocalRedis } from '@opm/testkit';

/** The role of each URL file, as docker-compose.yml and docs/secrets.md name them. */
export const ROLES = {
  owner: 'opm_owner',
  ingress: 'opm_ingress',
  worker: 'opm_worker',
  console: 'opm_console',
  opm: 'opm_cli',
} as const;

export type RoleFile = keyof typeof ROLES;

export const PASSWORD = `it's $$ "quoted" \\ %41 ü`;

export const withLogin = (url: string, user: string) =>
  url.replace(/\/\/([^@]*@)?/, `//${user}:${encodeURIComponent(PASSWORD)}@`);

/** Writes the folder `secrets` of an installation. @returns the roles' URLs */
export async function writeSecrets(secrets: string, databaseUrl: string): Promise<Record<RoleFile, string>> {
  await mkdir(secrets, { recursive: true });
  const urls = Object.entries(ROLES).map(([file, role]) => [file, withLogin(databaseUrl, role)] as const);
  for (const [file, url] of urls) await writeFile(join(secrets, `${file}-database-url`), `${url}\n`);
  await writeFile(join(secrets, 'backup-password'), `${PASSWORD}\n`);
  return Object.fromEntries(urls) as Record<RoleFile, string>;
}

/** Runs a file of deploy/postgres as the documentation says. @returns the exit code and what psql printed */
export async function runSql(
  file: 'roles.sql' | 'grants.sql',
  databaseUrl: string,
  secrets = '/nowhere',
): Promise<{ code: number; printed: string }> {
  const path = fileURLToPath(new URL(`../deploy/postgres/${file}`, import.meta.url));
  const args = ['--no-psqlrc', '--set', `secrets=${secrets}`, '--file', path, databaseUrl];
  return promisify(execFile)(await findPsql(), args).then(
    ({ stdout, stderr }) => ({ code: 0, printed: stdout + stderr }),
    ({ code, stdout, stderr }) => ({ code, printed: stdout + stderr }),
  );
}

/** Runs the commands of docs/postgresql.md, "Roles", for this database and this folder. They print no warning. */
export async function runGuide(databaseUrl: string, secrets: string): Promise<void> {
  const guide = await readFile(new URL('../docs/postgresql.md', import.meta.url), 'utf8');
  const [, commands = ''] = /## Roles.*?^```sh\n(.*?)^```/ms.exec(guide) ?? [];
  const script = commands
    .replaceAll('/etc/opm/secrets', secrets)
    .replaceAll('postgresql://postgres@db.example.com/opm', databaseUrl);
  const { PATH = '' } = process.env;
  const env = { ...process.env, PATH: `${dirname(await findPsql())}:${PATH}`, REDIS_URL: '' };
  const { stdout, stderr } = await promisify(execFile)('sh', ['-ec', script], { env });
  expect([stdout, stderr]).toEqual(['The database is up to date.\n', '']);
}

const toHash = (password: string) => createHash('sha256').update(password).digest('hex');

/**
 * Writes deploy/redis/users.acl for keys with this prefix.
 * @param admin a further user, who may do everything
 * @returns options of redis-server
 */
export async function writeUsers(directory: string, prefix: string, admin: string): Promise<string[]> {
  const template = await readFile(new URL('../deploy/redis/users.acl', import.meta.url), 'utf8');
  const users = template
    .replace(/^#.*\n/gm, '')
    .replace(/#\w+_SHA256/g, `#${toHash(PASSWORD)}`)
    .replaceAll('{opm-', `{${prefix}-`)
    .replace(/^user default .*\n/m, (line) => (admin.startsWith('user default') ? '' : line));
  const file = join(directory, 'users.acl');
  await writeFile(file, `${users}${admin} ~* &* +@all\n`);
  return ['--aclfile', file];
}

/** Starts a Redis with the users of deploy/redis/users.acl, and `admin`, who may do everything. */
export async function startRedisWithUsers(
  directory: string,
  prefix: string,
): Promise<LocalRedis & { urlOf(user: string): string }> {
  const users = await writeUsers(directory, prefix, `user admin on #${toHash(PASSWORD)}`);
  // By default nobody may use DEBUG and MODULE, whatever the users' rules say.
  const enabled = ['--enable-debug-command', 'local', '--enable-module-command', 'local'];
  const redis = await startLocalRedis({ directory, flags: ['--appendonly', 'yes', ...users, ...enabled] });
  return { ...redis, urlOf: (user) => withLogin(redis.url, user) };
}
