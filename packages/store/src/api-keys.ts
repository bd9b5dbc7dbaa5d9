import { createApiKey, hashApiKey, type RateLimit } from '@opm/core';
import type { PrismaClient } from './generated/client.js';
import { toRateLimit } from './projects.js';
import { toStoreError } from './store-error.js';

/** A key as an operator may see it: `hint` is its first characters, the rest is known to its owner only. */
export type StoredApiKey = {
  keyId: number;
  hint: string;
  status: 'active' | 'expired' | 'revoked';
  createdAt: Date;
  expiresAt: Date | null;
  revokedAt: Date | null;
};

/** The project that a key opens, and its limit where it has one. */
export type KeyOwner = { projectId: number; limit: RateLimit | undefined };

export type ApiKeys = ReturnType<typeof createApiKeys>;

type OwnerRow = { keyHash: string; projectId: number; rate: number | null; burst: number | null };

const HINT_LENGTH = 'opm_'.length + 6;

export function createApiKeys(prisma: PrismaClient) {
  return {
    /** Whose those keys are that are neither revoked nor expired, by the keys' SHA-256 in hex. One query. */
    async findOwners(keyHashes: string[]): Promise<Map<string, KeyOwner>> {
      const owners = await toStoreError(
        () => prisma.$queryRaw<OwnerRow[]>`
          SELECT encode(k.key_hash, 'hex') AS "keyHash", p.id AS "projectId", p.rate, p.burst
          FROM api_keys k JOIN projects p ON p.id = k.project_id
          WHERE k.key_hash IN (SELECT decode(hash, 'hex') FROM unnest(${keyHashes}::text[]) AS hash)
            AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())`,
      );
      return new Map(owners.map(({ keyHash, projectId, ...row }) => [keyHash, { projectId, limit: toRateLimit(row) }]));
    },

    async list(projectId: number): Promise<StoredApiKey[]> {
      const rows = await toStoreError(() => prisma.apiKey.findMany({ where: { projectId }, orderBy: { id: 'asc' } }));
      return rows.map(({ id, hint, createdAt, expiresAt, revokedAt }) => ({
        keyId: id,
        hint,
        status: revokedAt ? 'revoked' : expiresAt && expiresAt <= new Date() ? 'expired' : 'active',
        createdAt,
        expiresAt,
        revokedAt,
      }));
    },

    /** Issues one more key, shown here and never again. */
    async issue(projectId: number): Promise<string> {
      const apiKey = createApiKey();
      await toStoreError(() => prisma.apiKey.create({ data: { projectId, ...toKeyRow(apiKey) } }));
      return apiKey;
    },

    /** Issues a new key, shown here and never again; the ones before it end after the grace period. */
    async rotate(projectId: number, { graceMs }: { graceMs: number }): Promise<{ apiKey: string; oldKeysEndAt: Date }> {
      const apiKey = createApiKey();
      const oldKeysEndAt = new Date(Date.now() + graceMs);
      await toStoreError(() =>
        prisma.$transaction([
          prisma.apiKey.updateMany({
            where: { projectId, revokedAt: null, OR: [{ expiresAt: null }, { expiresAt: { gt: oldKeysEndAt } }] },
            data: { expiresAt: oldKeysEndAt },
          }),
          prisma.apiKey.create({ data: { projectId, ...toKeyRow(apiKey) } }),
        ]),
      );
      return { apiKey, oldKeysEndAt };
    },

    /** Ends keys now: one of them, or all that the project has. Returns how many were active until now. */
    async revoke(projectId: number, { keyId }: { keyId?: number | undefined } = {}): Promise<number> {
      const { count } = await toStoreError(() =>
        prisma.apiKey.updateMany({
          where: { projectId, ...(keyId === undefined ? {} : { id: keyId }), ...isActive() },
          data: { revokedAt: new Date() },
        }),
      );
      return count;
    },
  };
}

/** What is stored of a key. */
export function toKeyRow(apiKey: string) {
  return { keyHash: toBytes(hashApiKey(apiKey)), hint: apiKey.slice(0, HINT_LENGTH) };
}

const toBytes = (hex: string): Uint8Array<ArrayBuffer> => new Uint8Array(Buffer.from(hex, 'hex'));

const isActive = () => ({ revokedAt: null, OR: [{ expiresAt: null }, { expiresAt: { gt: new Date() } }] });
