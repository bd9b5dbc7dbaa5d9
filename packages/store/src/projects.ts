import { createApiKey } from '@opm/core';
import { toKeyRow } from './api-keys.js';
import type { PrismaClient } from './generated/client.js';
import { StoreError, toStoreError } from './store-error.js';

export type Project = { projectId: number; name: string };

/** Shown in one line, and typed on command lines. */
const NAME = /^(?! )[^\p{Cc}\p{Cs}]{1,100}(?<! )$/u;

export type Projects = ReturnType<typeof createProjects>;

export function createProjects(prisma: PrismaClient) {
  return {
    /** Creates the project and its first key, which is returned here and never again. @throws StoreError if the name is taken or unfit */
    async create(name: string): Promise<Project & { apiKey: string }> {
      if (!NAME.test(name)) {
        throw new StoreError(
          'a project name must have 1 to 100 characters, no control characters and no spaces around it',
        );
      }
      const apiKey = createApiKey();
      try {
        const project = await toStoreError(() =>
          prisma.project.create({ data: { name, apiKeys: { create: toKeyRow(apiKey) } } }),
        );
        return { projectId: project.id, name, apiKey };
      } catch (error) {
        if (!(error instanceof StoreError) || error.prismaCode !== 'P2002') throw error;
        throw new StoreError(`a project named "${name}" exists already`, { cause: error, prismaCode: 'P2002' });
      }
    },

    async find(name: string): Promise<Project | undefined> {
      const project = await toStoreError(() => prisma.project.findUnique({ where: { name } }));
      return project ? { projectId: project.id, name } : undefined;
    },

    async list(): Promise<Project[]> {
      const projects = await toStoreError(() => prisma.project.findMany({ orderBy: { id: 'asc' } }));
      return projects.map(({ id, name }) => ({ projectId: id, name }));
    },
  };
}
