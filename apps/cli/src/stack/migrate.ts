import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { isPooled, migrateQueue } from '@opm/queue';
import { hasMigrations } from '@opm/store';
import { UserError } from '../user-error.js';
import { inRepository } from './repository.js';

const CONNECT_TIMEOUT_MS = 10_000;
const NOT_DIRECT =
  'migrations hold a lock for their session, which a pooler such as PgBouncer would give to others: ' +
  "have DATABASE_URL name PostgreSQL's own address";

export type MigrateOptions = {
  /** Ctrl-C does not reach Prisma: the caller stops all in order. */
  detached?: boolean;
};

/** Applies the migrations that are missing, and sees that they are there. @throws UserError with Prisma's own words */
export async function migrate(databaseUrl: string, { detached = false }: MigrateOptions = {}): Promise<void> {
  // What is wrong with a connection, Prisma says itself, and it creates a database that is not there.
  if (
    await isPooled({ connectionString: databaseUrl, connectionTimeoutMillis: CONNECT_TIMEOUT_MS }).catch(() => false)
  ) {
    throw new UserError(NOT_DIRECT);
  }
  const names = await findMigrationNames();
  // Prisma takes a second to start, to find nothing to do.
  if (!(await hasMigrations(databaseUrl, names).catch(() => false))) {
    const printed = await deploy(databaseUrl, detached);
    // A schema engine that dies lets it end with exit code 0, so its word alone is not enough.
    const isDone = await hasMigrations(databaseUrl, names).catch((error: Error) => {
      throw new UserError(`whether the migrations are applied could not be seen: ${error.message}`);
    });
    if (!isDone) throw new UserError(`prisma migrate deploy has not applied the migrations:\n${printed}`);
  }
  await migrateQueue(databaseUrl).catch((error: Error) => {
    throw new UserError(`the queue's tables could not be migrated: ${error.message}`);
  });
}

async function findMigrationNames(): Promise<string[]> {
  const entries = await readdir(inRepository('prisma/migrations'), { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
}

/** @returns what Prisma printed */
async function deploy(databaseUrl: string, detached: boolean): Promise<string> {
  const { url, password } = takePassword(databaseUrl);
  const prisma = join(dirname(createRequire(import.meta.url).resolve('prisma/package.json')), 'build/index.js');
  const child = spawn(process.execPath, [prisma, 'migrate', 'deploy'], {
    cwd: inRepository('.'),
    env: {
      ...process.env,
      ...(password && { PGPASSWORD: password }),
      ...{ DATABASE_URL: url, CHECKPOINT_DISABLE: '1', PRISMA_HIDE_UPDATE_MESSAGE: '1' },
    },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached,
  });
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  const printed = `${stdout}\n${stderr}`.trim();
  if (code !== 0) throw new UserError(`prisma migrate deploy failed:\n${printed}`);
  return printed;
}

/** Prisma starts its engine with the URL as an argument, which everybody on the machine may read. */
function takePassword(databaseUrl: string): { url: string; password: string } {
  const url = new URL(databaseUrl);
  const password = decodeURIComponent(url.password);
  url.password = '';
  return { url: url.href, password };
}
