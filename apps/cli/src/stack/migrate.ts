import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { text } from 'node:stream/consumers';
import { isPooled, migrateQueue } from '@opm/queue';
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

/** Applies all migrations, and has Prisma confirm that it did. @throws UserError with Prisma's own words */
export async function migrate(databaseUrl: string, { detached = false }: MigrateOptions = {}): Promise<void> {
  // What is wrong with a connection, Prisma says itself, and it creates a database that is not there.
  if (
    await isPooled({ connectionString: databaseUrl, connectionTimeoutMillis: CONNECT_TIMEOUT_MS }).catch(() => false)
  ) {
    throw new UserError(NOT_DIRECT);
  }
  await runPrisma(databaseUrl, 'deploy', detached);
  // A schema engine that dies lets `deploy` end with exit code 0, so its word alone is not enough.
  const status = await runPrisma(databaseUrl, 'status', detached);
  if (!status.includes('Database schema is up to date!'))
    throw new UserError(`the migrations were not applied:\n${status}`);
  await migrateQueue(databaseUrl).catch((error: Error) => {
    throw new UserError(`the queue's tables could not be migrated: ${error.message}`);
  });
}

async function runPrisma(databaseUrl: string, command: 'deploy' | 'status', detached: boolean): Promise<string> {
  const prisma = join(dirname(createRequire(import.meta.url).resolve('prisma/package.json')), 'build/index.js');
  const child = spawn(process.execPath, [prisma, 'migrate', command], {
    cwd: inRepository('.'),
    env: { ...process.env, DATABASE_URL: databaseUrl, CHECKPOINT_DISABLE: '1', PRISMA_HIDE_UPDATE_MESSAGE: '1' },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached,
  });
  const [stdout, stderr, [code]] = await Promise.all([text(child.stdout), text(child.stderr), once(child, 'close')]);
  if (code === 0) return stdout;
  throw new UserError(`prisma migrate ${command} failed:\n${`${stdout}\n${stderr}`.trim()}`);
}
