import { hostname, userInfo } from 'node:os';
import type { AuditRecord, Project, Store, StoreOptions } from '@opm/store';
import { readStackFile } from './stack/stack-file.js';
import { readSettings, UserError } from './user-error.js';

/** PostgreSQL has no such table, column or function: the tables are missing or of an earlier release. */
const NOT_MIGRATED = ['42P01', '42703', '42883'];

/** The data folder of `opm up`. The other commands look for a running stack there. */
export function dataDirOf(env: NodeJS.ProcessEnv): string {
  return env.OPM_DATA_DIR || '.data';
}

/**
 * Returns the environment if DATABASE_URL is set. Otherwise adds the database and the queue of the stack that runs in
 * the data folder. @throws UserError if there is neither
 */
export async function findStores(env: NodeJS.ProcessEnv): Promise<NodeJS.ProcessEnv & { DATABASE_URL: string }> {
  if (env.DATABASE_URL) return { ...env, DATABASE_URL: await readDatabaseUrl(env) };
  const dataDir = dataDirOf(env);
  const stack = await readStackFile(dataDir);
  if (stack?.databaseUrl) return { ...env, ...stack.queueEnv, DATABASE_URL: stack.databaseUrl };
  if (stack) throw new UserError(`the stack in ${dataDir} is still starting; try again in a moment`, 'unavailable');
  throw new UserError(
    `no stack is running in ${dataDir} and DATABASE_URL is not set: run \`npm start\`, set DATABASE_URL, or set ` +
      'OPM_DATA_DIR to the data folder of a running stack',
    'unavailable',
  );
}

/** @throws UserError if it is missing or not a PostgreSQL URL */
export async function readDatabaseUrl(env: NodeJS.ProcessEnv): Promise<string> {
  const { DATABASE_URL } = await readSettings(({ parseEnv, STORE_ENV }) =>
    parseEnv(env, { DATABASE_URL: STORE_ENV.DATABASE_URL }),
  );
  return DATABASE_URL;
}

/** Opens the store for one command. @throws UserError for an error of PostgreSQL, as one line */
export async function withStore<T>(
  env: NodeJS.ProcessEnv,
  use: (store: Store) => Promise<T>,
  options?: Pick<StoreOptions, 'poolSize' | 'connectTimeoutMs' | 'statementTimeoutMs'>,
): Promise<T> {
  const databaseUrl = (await findStores(env)).DATABASE_URL;
  const { createStore, StoreError } = await import('@opm/store'); // lazily: it loads slowly, and --help needs none of it
  const store = createStore({ databaseUrl, applicationName: 'opm-cli', ...options });
  try {
    return await use(store);
  } catch (error) {
    const change = recorded.get(store);
    const isRefused =
      error instanceof StoreError ? error.isOwn : error instanceof UserError && error.kind === 'not-found';
    const outcome = isRefused ? 'not done' : 'failed';
    if (change) await store.audit.recordOutcome(change.id, outcome, change.row).catch(() => {});
    if (!(error instanceof StoreError)) throw error;
    if (NOT_MIGRATED.includes(error.sqlState ?? '')) throw new UserError(`${error.message}: run \`opm migrate\``);
    throw new UserError(error.message, error.kind === 'outage' ? 'unavailable' : 'failed');
  } finally {
    await store.close();
  }
}

/** The audit row that a command wrote, by store. `withStore` adds the outcome if the command fails. */
const recorded = new WeakMap<Store, { id: string; row: AuditRecord }>();

/**
 * Writes the audit row of a command. Call it after the checks and before the change: if it throws, nothing has changed.
 * If the change fails, `withStore` adds that to the log.
 */
export async function recordChange(
  store: Store,
  change: Pick<AuditRecord, 'action' | 'target' | 'details'>,
): Promise<void> {
  const { details: _, ...row }: AuditRecord = { ...change, actor: readUserName(), source: 'cli', address: hostname() };
  recorded.set(store, { id: await store.audit.record({ ...row, details: change.details }), row });
}

function readUserName(): string {
  try {
    return userInfo().username;
  } catch {
    return `uid ${process.getuid?.()}`; // the system does not know the user, as in a container with `--user`
  }
}

/** @throws UserError if there is no such project */
export async function findProject(store: Store, name: string): Promise<Project> {
  const project = await store.projects.find(name);
  if (!project) throw new UserError(`there is no project "${name}": see \`opm projects list\``, 'not-found');
  return project;
}
