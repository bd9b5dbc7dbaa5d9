import { createApiKey, type RateLimit } from '@opm/core';
import { toKeyRow } from './api-keys.js';
import { Prisma, type PrismaClient } from './generated/client.js';
import { StoreError, toStoreError } from './store-error.js';

export type Project = { projectId: number; name: string };

export type ListedProject = Project & { [Part in keyof RateLimit]: number | null } & { pausedAt: Date | null };

/** Names are shown in one line and typed on command lines. */
const NAME = /^[^\p{Cc}\p{Cs}]{1,100}$/u;

/** In metrics, the label of all projects that have none of their own. No project can have this name. */
export const OTHERS = 'other';

const UNIQUE_VIOLATION = '23505';

/** The limit of the table's constraint. */
const MAX_LIMIT = 1_000_000;

export type Projects = ReturnType<typeof createProjects>;

export function createProjects(prisma: PrismaClient) {
  return {
    /**
     * Creates the project and its first key, which is returned only here.
     * @throws StoreError if the name is invalid or taken
     */
    async create(name: string): Promise<Project & { apiKey: string }> {
      assertProjectName(name);
      const apiKey = createApiKey();
      const { keyHash, hint } = toKeyRow(apiKey);
      const [created] = await withFreeName(
        name,
        () => prisma.$queryRaw<{ projectId: number }[]>`
          WITH project AS (INSERT INTO projects (name) VALUES (${name}) RETURNING id)
          INSERT INTO api_keys (project_id, key_hash, hint)
          SELECT id, decode(${keyHash}, 'hex'), ${hint} FROM project RETURNING project_id AS "projectId"`,
      );
      if (!created) throw new Error('INSERT INTO api_keys returned no row');
      return { ...created, name, apiKey };
    },

    async find(name: string): Promise<Project | undefined> {
      const project = await toStoreError(() => prisma.project.findUnique({ where: { name } }));
      return project ? { projectId: project.id, name } : undefined;
    },

    /** The names of these projects, by id. Ids without a project are left out. */
    async names(projectIds: number[]): Promise<Map<number, string>> {
      const where = { id: { in: projectIds } };
      const found = await toStoreError(() => prisma.project.findMany({ where, select: { id: true, name: true } }));
      return new Map(found.map(({ id, name }) => [id, name]));
    },

    /**
     * Lists all projects in order of creation. `rate` and `burst` are null if a project has no limit, `pausedAt` if it
     * is not paused.
     */
    async list(): Promise<ListedProject[]> {
      const projects = await toStoreError(() => prisma.project.findMany({ orderBy: { id: 'asc' } }));
      return projects.map(({ id, name, rate, burst, pausedAt }) => ({ projectId: id, name, rate, burst, pausedAt }));
    },

    /** @throws StoreError if the name is invalid or taken */
    async rename(projectId: number, name: string): Promise<void> {
      assertProjectName(name);
      await withFreeName(name, () => prisma.project.update({ where: { id: projectId }, data: { name } }));
    },

    /** While a project is paused, ingresses answer its requests with 403. Entries that wait are stored. */
    async setPaused(projectId: number, isPaused: boolean): Promise<void> {
      const pausedAt = isPaused ? Prisma.sql`coalesce(paused_at, now())` : Prisma.sql`NULL`;
      await toStoreError(() => prisma.$executeRaw`UPDATE projects SET paused_at = ${pausedAt} WHERE id = ${projectId}`);
    },

    /** Sets or removes the project's rate limit. @throws StoreError if it is out of range */
    async setLimit(projectId: number, limit: RateLimit | undefined): Promise<void> {
      const parts = Object.values(limit ?? {});
      if (!parts.every((part) => Number.isInteger(part) && part >= 1 && part <= MAX_LIMIT)) {
        throw new StoreError(`rate and burst must be whole numbers from 1 to ${MAX_LIMIT}`);
      }
      const data = limit ?? { rate: null, burst: null };
      await toStoreError(() => prisma.project.update({ where: { id: projectId }, data }));
    },
  };
}

/** @throws StoreError if a project cannot have this name */
export function assertProjectName(name: string): void {
  if (name === OTHERS)
    throw new StoreError(`a project cannot be named "${OTHERS}", which stands for several in metrics`);
  if (NAME.test(name) && name === name.trim()) return;
  throw new StoreError(
    'a project name must have 1 to 100 characters, no control characters and no leading or trailing white space',
  );
}

/** @throws StoreError that says so if the name is taken */
async function withFreeName<T>(name: string, write: () => Promise<T>): Promise<T> {
  try {
    return await toStoreError(write);
  } catch (error) {
    if (!(error instanceof StoreError)) throw error;
    if (error.sqlState !== UNIQUE_VIOLATION && error.prismaCode !== 'P2002') throw error;
    throw new StoreError(`a project named "${name}" already exists`, { sqlState: UNIQUE_VIOLATION });
  }
}
