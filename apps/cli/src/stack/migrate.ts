import { execFile } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { migrateQueue } from '@opm/queue';
import { UserError } from '../user-error.js';
import { inRepository } from './repository.js';

/** Applies all migrations, and has Prisma confirm that it did. @throws UserError with Prisma's own words */
export async function migrate(databaseUrl: string): Promise<void> {
  await runPrisma(databaseUrl, 'deploy');
  // A schema engine that dies lets `deploy` end with exit code 0, so its word alone is not enough.
  const status = await runPrisma(databaseUrl, 'status');
  if (!status.includes('Database schema is up to date!'))
    throw new UserError(`the migrations were not applied:\n${status}`);
  await migrateQueue(databaseUrl).catch((error: Error) => {
    throw new UserError(`the queue's tables could not be migrated: ${error.message}`);
  });
}

async function runPrisma(databaseUrl: string, command: 'deploy' | 'status'): Promise<string> {
  const prisma = join(dirname(createRequire(import.meta.url).resolve('prisma/package.json')), 'build/index.js');
  try {
    const { stdout } = await promisify(execFile)(process.execPath, [prisma, 'migrate', command], {
      cwd: inRepository('.'),
      env: { ...process.env, DATABASE_URL: databaseUrl, CHECKPOINT_DISABLE: '1', PRISMA_HIDE_UPDATE_MESSAGE: '1' },
    });
    return stdout;
  } catch (error) {
    const { stdout = '', stderr = '' } = error as { stdout?: string; stderr?: string };
    throw new UserError(`prisma migrate ${command} failed:\n${`${stdout}\n${stderr}`.trim()}`);
  }
}
