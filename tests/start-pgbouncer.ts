import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { findFreePort } from '@opm/embedded';
import { findProgram, type RunningProgram, startProgram } from '@opm/testkit';

interface PgBouncerOptions {
  /**
   * Directory of its files; it is kept when PgBouncer stops. If we run as root, another account must be able to reach
   * it.
   */
  directory: string;
  /** URL of the database behind PgBouncer. */
  databaseUrl: string;
  /** The pgbouncer.ini; the addresses, the log and the password file are filled in here. */
  ini: string;
  /** Settings that replace those of the file or add to them. */
  settings?: Record<string, string | number>;
  /** By default a free port. */
  port?: number;
}

export interface PgBouncer extends RunningProgram {
  /** The database's URL with PgBouncer's address. */
  url: string;
}

/** The first 1.x version that supports prepared statements in transaction pooling. */
const LEAST_MINOR = 21;

/**
 * Runs the PgBouncer of this machine; as root on Debian, installs it if it is missing.
 * @throws Error with the log if it does not start
 */
export async function startPgBouncer(options: PgBouncerOptions): Promise<PgBouncer> {
  const { directory, databaseUrl, ini, settings = {} } = options;
  const program = await findPgBouncer();
  const port = options.port ?? (await findFreePort());
  const url = new URL(databaseUrl);
  const configFile = join(directory, 'pgbouncer.ini');
  const userFile = join(directory, 'userlist.txt');
  const server = { host: url.hostname, port: url.port, dbname: url.pathname.slice(1) };
  const place = {
    listen_addr: '127.0.0.1',
    listen_port: port,
    unix_socket_dir: '',
    auth_file: userFile,
  };
  await writeFile(userFile, `${toQuoted(url.username)} ${toQuoted(url.password)}\n`, { mode: 0o644 });
  await writeFile(configFile, toConfig(ini, { server, settings: { ...place, ...settings } }), { mode: 0o644 });

  // PgBouncer refuses to run as root.
  const account = process.geteuid?.() === 0 ? ['-u', 'nobody'] : [];
  const running = await startProgram({
    program,
    args: [...account, configFile],
    port,
    logFile: join(directory, 'pgbouncer.log'),
  });
  url.host = `127.0.0.1:${port}`;
  url.pathname = /^(\w+) *=/m.exec(ini)?.[1] ?? '';
  return { ...running, url: url.href };
}

async function findPgBouncer(): Promise<string> {
  const program = await findProgram({
    title: 'PgBouncer',
    names: ['pgbouncer'],
    aptPackages: ['pgbouncer'],
    otherwise: 'brew install pgbouncer (or your package manager)',
  });
  const { stdout } = await promisify(execFile)(program, ['--version']);
  const [, minor] = /PgBouncer 1\.(\d+)/.exec(stdout) ?? [];
  if (Number(minor) >= LEAST_MINOR) return program;
  throw new Error(
    `PgBouncer 1.${LEAST_MINOR} or newer is needed, such as the one of Debian 13; ${program} is ${stdout.trim()}.`,
  );
}

type Config = { server: Record<string, string>; settings: Record<string, string | number> };

/** Sets values in the file; appends settings that the file does not have. */
function toConfig(ini: string, { server, settings }: Config): string {
  const withServer = Object.entries(server).reduce(
    (text, [name, value]) => text.replace(new RegExp(`\\b${name}=\\S+`), `${name}=${value}`),
    ini,
  );
  return Object.entries(settings).reduce((text, [name, value]) => {
    const line = `${name} = ${value}`;
    const given = new RegExp(`^${name} *=.*$`, 'm');
    return given.test(text) ? text.replace(given, line) : `${text.trimEnd()}\n${line}\n`;
  }, withServer);
}

const toQuoted = (encoded: string) => `"${decodeURIComponent(encoded).replaceAll('"', '""')}"`;
