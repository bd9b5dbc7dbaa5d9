import { createApiKey, hashApiKey, type RateLimit } from '@opm/core';
import type { PrismaClient } from './generated/client.js';
import { toStoreError } from './store-error.js';

/** A key as operators see it. `hint` is its first 10 characters; only its owner knows the rest. */
export type StoredApiKey = {
  keyId: number;
  hint: string;
  /** What the operator calls it. */
  label: string | null;
  status: 'active' | 'expired' | 'revoked';
  createdAt: Date;
  expiresAt: Date | null;
  revokedAt: Date | null;
  /** When an ingress last reported its use; null if none did. */
  lastUsedAt: Date | null;
};

/** The project of a valid key. `limit` is undefined if it has no rate limit, `endsInMs` if the key does not expire. */
export type KeyOwner = {
  keyId: number;
  projectId: number;
  limit: RateLimit | undefined;
  isPaused: boolean;
  endsInMs?: number;
};

export type ApiKeys = ReturnType<typeof createApiKeys>;

type OwnerRow = {
  keyHash: string;
  keyId: number;
  projectId: number;
  rate: number | null;
  burst: number | null;
  isPaused: boolean;
  endsInMs: number | null;
};

const HINT_LENGTH = 'opm_'.length + 6;

/** All times are of PostgreSQL's clock, because the clock of the machine that issues or ends keys may differ. */
export function createApiKeys(prisma: PrismaClient) {
  return {
    /**
     * Finds the owners of the keys that are neither revoked nor expired, with one query.
     * @param keyHashes SHA-256 in hex, as are the keys of the result
     */
    async findOwners(keyHashes: string[]): Promise<Map<string, KeyOwner>> {
      const owners = await toStoreError(
        () => prisma.$queryRaw<OwnerRow[]>`
          SELECT encode(k.key_hash, 'hex') AS "keyHash", k.id AS "keyId", p.id AS "projectId", p.rate, p.burst,
            p.paused_at IS NOT NULL AS "isPaused",
            CASE WHEN isfinite(k.expires_at) THEN extract(epoch FROM k.expires_at - now())::double precision * 1000 END
              AS "endsInMs"
          FROM api_keys k JOIN projects p ON p.id = k.project_id
          WHERE k.key_hash IN (SELECT decode(hash, 'hex') FROM unnest(${keyHashes}::text[]) AS hash)
            AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())`,
      );
      return new Map(
        owners.map(({ keyHash, keyId, projectId, isPaused, endsInMs, ...row }) => [
          keyHash,
          { keyId, projectId, limit: toRateLimit(row), isPaused, ...(endsInMs !== null && { endsInMs }) },
        ]),
      );
    },

    /**
     * Reads the revision. It changes when a key ends or a limit changes; until then, results of `findOwners` stay
     * valid.
     */
    async readRevision(): Promise<string> {
      const rows = await toStoreError(
        () => prisma.$queryRaw<{ revision: string }[]>`SELECT revision::text FROM access_revision`,
      );
      return rows[0]?.revision ?? '';
    },

    async list(projectId: number): Promise<StoredApiKey[]> {
      return toStoreError(
        () => prisma.$queryRaw<StoredApiKey[]>`
          SELECT id AS "keyId", hint, label,
            CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired' ELSE 'active' END AS status,
            created_at AS "createdAt", expires_at AS "expiresAt", revoked_at AS "revokedAt", used_at AS "lastUsedAt"
          FROM api_keys LEFT JOIN key_uses ON key_id = id WHERE project_id = ${projectId} ORDER BY id`,
      );
    },

    /** Issues another key. It is returned only here. */
    async issue(projectId: number, label?: string): Promise<string> {
      const apiKey = createApiKey();
      const { keyHash, hint } = toKeyRow(apiKey);
      await toStoreError(
        () => prisma.$executeRaw`
          INSERT INTO api_keys (project_id, key_hash, hint, label)
          VALUES (${projectId}, decode(${keyHash}, 'hex'), ${hint}, ${label})`,
      );
      return apiKey;
    },

    /** Issues a new key, which is returned only here. The older keys expire after the grace period. */
    async rotate(
      projectId: number,
      { graceMs, label }: { graceMs: number; label?: string | undefined },
    ): Promise<{ apiKey: string; oldKeysEndAt: Date }> {
      const apiKey = createApiKey();
      const { keyHash, hint } = toKeyRow(apiKey);
      const [rotated] = await toStoreError(
        () => prisma.$queryRaw<{ oldKeysEndAt: Date }[]>`
          WITH grace AS (SELECT now() + ${graceMs}::double precision * interval '1 millisecond' AS ends_at),
          old AS (
            UPDATE api_keys SET expires_at = grace.ends_at FROM grace
            WHERE project_id = ${projectId} AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > grace.ends_at)
          )
          INSERT INTO api_keys (project_id, key_hash, hint, label)
          VALUES (${projectId}, decode(${keyHash}, 'hex'), ${hint}, ${label ?? null})
          RETURNING (SELECT ends_at FROM grace) AS "oldKeysEndAt"`,
      );
      if (!rotated) throw new Error('INSERT INTO api_keys returned no row');
      return { apiKey, ...rotated };
    },

    /** @returns whether the project has this key */
    async setLabel(projectId: number, keyId: number, label: string): Promise<boolean> {
      const { count } = await toStoreError(() =>
        prisma.apiKey.updateMany({ where: { id: keyId, projectId }, data: { label } }),
      );
      return count > 0;
    },

    /** Revokes one key, or all keys of the project. @returns the number of keys that were active */
    async revoke(projectId: number, { keyId }: { keyId?: number | undefined } = {}): Promise<number> {
      return toStoreError(
        () => prisma.$executeRaw`
          UPDATE api_keys SET revoked_at = now()
          WHERE project_id = ${projectId} AND coalesce(id = ${keyId ?? null}::integer, true)
            AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())`,
      );
    },
  };
}

/** Returns what is stored of a key: its SHA-256 in hex, and its first characters. */
export function toKeyRow(apiKey: string): { keyHash: string; hint: string } {
  return { keyHash: hashApiKey(apiKey), hint: apiKey.slice(0, HINT_LENGTH) };
}

function toRateLimit({ rate, burst }: { [Part in keyof RateLimit]: number | null }): RateLimit | undefined {
  return rate === null || burst === null ? undefined : { rate, burst };
}
