import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join, resolve } from 'node:path';
import { text } from 'node:stream/consumers';
import { isPooled, migrateQueue } from '@opm/queue';
import { hasMigrations } from '@opm/store';
import { UserError } from '../user-error.js';
import { inRepository } from './stack-file.js';

const CONNECT_TIMEOUT_MS = 10_000;
/** Prisma's codes for a server that does not answer, does not answer in time, or closes the connection. */
const UNREACHABLE = /\bP10(01|02|17)\b/;
const NOT_DIRECT =
  'migrations hold a session lock, which a pooler such as PgBouncer would share with other clients: ' +
  "set DATABASE_URL to PostgreSQL's own address";

type MigrateOptions = {
  /** Runs Prisma in its own process group, so Ctrl-C does not reach it and the caller stops everything in order. */
  detached?: boolean;
};

/** Applies missing migrations and checks the result. @throws UserError with Prisma's output if they fail */
export async function migrate(databaseUrl: string, { detached = false }: MigrateOptions = {}): Promise<void> {
  // Connection errors are ignored here: Prisma reports them, and it creates a missing database.
  if (
    await isPooled({ connectionString: databaseUrl, connectionTimeoutMillis: CONNECT_TIMEOUT_MS }).catch(() => false)
  ) {
    throw new UserError(NOT_DIRECT);
  }
  const names = await findMigrationNames();
  // Prisma takes a second to start, so it is skipped if all migrations are applied.
  if (!(await hasMigrations(databaseUrl, names).catch(() => false))) {
    const printed = await deploy(databaseUrl, detached);
    // Prisma exits with code 0 if its schema engine dies, so the result is checked.
    const isDone = await hasMigrations(databaseUrl, names).catch((error: Error) => {
      throw new UserError(`cannot check whether the migrations are applied: ${error.message}`, 'unavailable');
    });
    if (!isDone) throw new UserError(`prisma migrate deploy did not apply the migrations:\n${printed}`);
  }
  await migrateQueue(databaseUrl).catch((error: Error) => {
    throw new UserError(`cannot migrate the queue's tables: ${error.message}`, 'unavailable');
  });
}

async function findMigrationNames(): Promise<string[]> {
  const entries = await readdir(inRepository('prisma/migrations'), { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}

/** @returns what Prisma printed */
async function deploy(databaseUrl: string, detached: boolean): Promise<string> {
  const { url, password } = splitPassword(databaseUrl);
  const { DATABASE_URL_FILE: file } = process.env;
  const prisma = join(dirname(createRequire(import.meta.url).resolve('prisma/package.json')), 'build/index.js');
  const child = spawn(process.execPath, [prisma, 'migrate', 'deploy'], {
    cwd: inRepository('.'),
    env: {
      ...process.env,
      // With DATABASE_URL_FILE, the schema engine reads the password itself, and no environment contains it.
      ...(file ? { DATABASE_URL_FILE: resolve(file) } : password && { PGPASSWORD: password }),
      DATABASE_URL: url,
      CHECKPOINT_DISABLE: '1',
      PRISMA_HIDE_UPDATE_MESSAGE: '1',
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached,
  });
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  const printed = `${stdout}\n${stderr}`.trim();
  if (code !== 0) {
    throw new UserError(
      `prisma migrate deploy failed:\n${printed}`,
      UNREACHABLE.test(printed) ? 'unavailable' : 'failed',
    );
  }
  return printed;
}

/** Splits the password off the URL. Prisma passes the URL to its engine as an argument, which every user can read. */
function splitPassword(databaseUrl: string): { url: string; password: string } {
  const url = new URL(databaseUrl);
  const password = decodeURIComponent(url.password);
  url.password = '';
  return { url: url.href, password };
}
