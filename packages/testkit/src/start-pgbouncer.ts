import { execFile } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { findFreePort } from '@opm/embedded';
import { findProgram } from './find-program.js';
import { type RunningProgram, startProgram } from './start-program.js';

export interface PgBouncerOptions {
  /** Where it keeps its files, which an account other than ours must reach when we are root; stays when it stops. */
  directory: string;
  /** The database that it stands in front of. */
  databaseUrl: string;
  /** Its pgbouncer.ini; where to listen, to log and to find PostgreSQL and its passwords is put in here. */
  ini: string;
  /** Settings in place of those of the file, or on top of it. */
  settings?: Record<string, string | number>;
  /** A free one where it is not given. */
  port?: number;
}

export interface PgBouncer extends RunningProgram {
  /** That of the database, with PgBouncer's address. */
  url: string;
}

/** The first 1.x that keeps prepared statements apart. */
const LEAST_MINOR = 21;

/** Runs the PgBouncer of this machine; root on Debian gets it installed. Throws with its log where it does not come up. */
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

  // It refuses to run as root.
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
    `PgBouncer 1.${LEAST_MINOR} or newer is needed, as Debian 13 has it; ${program} is ${stdout.trim()}.`,
  );
}

type Config = { server: Record<string, string>; settings: Record<string, string | number> };

/** The file with other values; what it does not have is put at the end of it. */
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
