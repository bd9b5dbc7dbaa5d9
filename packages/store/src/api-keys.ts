import {
  createApiKey,
  hashApiKey,
  isAddressRule,
  type KeyRules,
  MAX_KEY_ADDRESSES,
  type RateLimit,
  SCOPES,
  type Scope,
} from '@opm/core';
import type { PrismaClient } from './generated/client.js';
import { StoreError, toStoreError } from './store-error.js';

/** A key as operators see it. `hint` is its first 10 characters; only its owner knows the rest. */
export type StoredApiKey = KeyRules & {
  keyId: number;
  hint: string;
  /** The operator's name for the key. */
  label: string | null;
  status: 'active' | 'expired' | 'revoked';
  createdAt: Date;
  expiresAt: Date | null;
  revokedAt: Date | null;
  /** When an ingress last reported its use; null if none did. */
  lastUsedAt: Date | null;
};

/**
 * The project of a valid key. `limit`: undefined if the project has no rate limit. `endsInMs`: undefined if the key
 * does not expire. `scopes`, `addresses`: undefined if the key may do everything, from any address.
 */
export type KeyOwner = {
  keyId: number;
  projectId: number;
  limit: RateLimit | undefined;
  isPaused: boolean;
  endsInMs?: number;
  scopes?: Scope[];
  addresses?: string[];
};

/** The label of a new key, and its rules, which never change. */
export type NewKey = { label?: string | undefined } & { [Part in keyof KeyRules]?: KeyRules[Part] | undefined };

export type ApiKeys = ReturnType<typeof createApiKeys>;

type OwnerRow = KeyRules & {
  keyHash: string;
  keyId: number;
  projectId: number;
  rate: number | null;
  burst: number | null;
  isPaused: boolean;
  endsInMs: number | null;
};

/** The most keys that `listActive` returns. */
const MAX_ACTIVE_KEYS = 100;
const HINT_LENGTH = 'opm_'.length + 6;

/** All times are of PostgreSQL's clock, because the clock of the machine that issues or ends keys may differ. */
export function createApiKeys(prisma: PrismaClient) {
  /**
   * Whether the project's keys that do not expire have different rules. If so, `rotate` requires rules, because those
   * of the newest key may be for one narrow purpose.
   */
  async function haveDifferentRules(projectId: number): Promise<boolean> {
    const rules = await toStoreError(
      () => prisma.$queryRaw`
        SELECT DISTINCT ARRAY(SELECT unnest(scopes) ORDER BY 1), ARRAY(SELECT unnest(addresses) ORDER BY 1)
        FROM api_keys
        WHERE project_id = ${projectId} AND revoked_at IS NULL AND (expires_at IS NULL OR NOT isfinite(expires_at))`,
    );
    return (rules as unknown[]).length > 1;
  }

  return {
    /**
     * Finds the owners of the keys that are neither revoked nor expired, with one query.
     * @param keyHashes SHA-256 in hex, as are the keys of the result
     */
    async findOwners(keyHashes: string[]): Promise<Map<string, KeyOwner>> {
      const owners = await toStoreError(
        () => prisma.$queryRaw<OwnerRow[]>`
          SELECT encode(k.key_hash, 'hex') AS "keyHash", k.id AS "keyId", p.id AS "projectId", p.rate, p.burst,
            p.paused_at IS NOT NULL AS "isPaused", k.scopes, k.addresses,
            CASE WHEN isfinite(k.expires_at) THEN extract(epoch FROM k.expires_at - now())::double precision * 1000 END
              AS "endsInMs"
          FROM api_keys k JOIN projects p ON p.id = k.project_id
          WHERE k.key_hash IN (SELECT decode(hash, 'hex') FROM unnest(${keyHashes}::text[]) AS hash)
            AND k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())`,
      );
      return new Map(
        owners.map(({ keyHash, keyId, projectId, isPaused, endsInMs, scopes, addresses, ...row }) => [
          keyHash,
          {
            keyId,
            projectId,
            limit: toRateLimit(row),
            isPaused,
            ...(endsInMs !== null && { endsInMs }),
            ...(!SCOPES.every((scope) => scopes.includes(scope)) && { scopes }),
            ...(addresses.length > 0 && { addresses }),
          },
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
          SELECT id AS "keyId", hint, label, scopes, addresses,
            CASE WHEN revoked_at IS NOT NULL THEN 'revoked' WHEN expires_at <= now() THEN 'expired' ELSE 'active' END AS status,
            created_at AS "createdAt", CASE WHEN isfinite(expires_at) THEN expires_at END AS "expiresAt",
            revoked_at AS "revokedAt", used_at AS "lastUsedAt"
          FROM api_keys LEFT JOIN key_uses ON key_id = id WHERE project_id = ${projectId} ORDER BY id`,
      );
    },

    /** When each project last used a key, as far as an ingress reported it, by project id. */
    async lastUses(): Promise<Map<number, Date>> {
      const uses = await toStoreError(
        () => prisma.$queryRaw<{ projectId: number; usedAt: Date }[]>`
          SELECT project_id AS "projectId", max(used_at) AS "usedAt"
          FROM key_uses JOIN api_keys ON id = key_id GROUP BY project_id`,
      );
      return new Map(uses.map(({ projectId, usedAt }) => [projectId, usedAt]));
    },

    /** Lists the keys of a project that are neither revoked nor expired, the newest 100 of them, newest first. */
    async listActive(projectId: number): Promise<Omit<StoredApiKey, 'keyId' | 'status' | 'revokedAt'>[]> {
      return toStoreError(
        () => prisma.$queryRaw<StoredApiKey[]>`
          SELECT hint, label, scopes, addresses, created_at AS "createdAt",
            CASE WHEN isfinite(expires_at) THEN expires_at END AS "expiresAt", used_at AS "lastUsedAt"
          FROM api_keys LEFT JOIN key_uses ON key_id = id
          WHERE project_id = ${projectId} AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
          ORDER BY id DESC LIMIT ${MAX_ACTIVE_KEYS}`,
      );
    },

    /**
     * Issues another key, which is returned only here. Without rules it may do everything, from any address.
     * @throws StoreError if a rule is not valid
     */
    async issue(projectId: number, { label, ...given }: NewKey = {}): Promise<string> {
      const { scopes = [...SCOPES], addresses = [] } = checkRules(given);
      const apiKey = createApiKey();
      const { keyHash, hint } = toKeyRow(apiKey);
      await toStoreError(
        () => prisma.$executeRaw`
          INSERT INTO api_keys (project_id, key_hash, hint, label, scopes, addresses)
          VALUES (${projectId}, decode(${keyHash}, 'hex'), ${hint}, ${label}, ${scopes}::text[], ${addresses}::text[])`,
      );
      return apiKey;
    },

    /**
     * Issues a new key, which is returned only here with its rules. The older keys expire after the grace period. A
     * missing rule is taken from the newest active key; if there is none, the new key may do everything, from any
     * address.
     * @throws StoreError if a rule is not valid, or missing although the keys that do not expire have different rules
     */
    async rotate(
      projectId: number,
      { graceMs, label, ...given }: NewKey & { graceMs: number },
    ): Promise<KeyRules & { apiKey: string; oldKeysEndAt: Date }> {
      const { scopes = null, addresses = null } = checkRules(given);
      if (!(scopes && addresses) && (await haveDifferentRules(projectId))) {
        throw new StoreError("the project's keys differ in scopes or addresses: specify both for the new key");
      }
      const apiKey = createApiKey();
      const { keyHash, hint } = toKeyRow(apiKey);
      const [rotated] = await toStoreError(
        () => prisma.$queryRaw<(KeyRules & { oldKeysEndAt: Date })[]>`
          WITH newest AS (
            SELECT scopes, addresses FROM api_keys
            WHERE project_id = ${projectId} AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
            ORDER BY id DESC LIMIT 1
          ), grace AS (SELECT now() + ${graceMs}::double precision * interval '1 millisecond' AS ends_at),
          old AS (
            UPDATE api_keys SET expires_at = grace.ends_at FROM grace
            WHERE project_id = ${projectId} AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > grace.ends_at)
          )
          INSERT INTO api_keys (project_id, key_hash, hint, label, scopes, addresses)
          VALUES (
            ${projectId}, decode(${keyHash}, 'hex'), ${hint}, ${label ?? null},
            coalesce(${scopes}::text[], (SELECT scopes FROM newest), ${[...SCOPES]}::text[]),
            coalesce(${addresses}::text[], (SELECT addresses FROM newest), '{}')
          )
          RETURNING scopes, addresses, (SELECT ends_at FROM grace) AS "oldKeysEndAt"`,
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

/**
 * Returns the rules as they are stored: scopes in a fixed order, nothing twice.
 * @throws StoreError if one is not valid
 */
function checkRules({ scopes, addresses }: Pick<NewKey, 'scopes' | 'addresses'>): Partial<KeyRules> {
  if (scopes && (scopes.length === 0 || !scopes.every((scope) => SCOPES.includes(scope)))) {
    throw new StoreError(`scopes must be one or more of ${SCOPES.join(', ')}`);
  }
  const unique = addresses && [...new Set(addresses.map((address) => address.toLowerCase()))];
  if (unique && unique.length > MAX_KEY_ADDRESSES) {
    throw new StoreError(`a key must have at most ${MAX_KEY_ADDRESSES} addresses`);
  }
  const wrong = unique?.find((address) => !isAddressRule(address));
  if (wrong !== undefined) {
    throw new StoreError(`addresses must be IP addresses or blocks such as 203.0.113.0/24, not "${wrong}"`);
  }
  return {
    ...(scopes && { scopes: SCOPES.filter((scope) => scopes.includes(scope)) }),
    ...(unique && { addresses: unique }),
  };
}

function toRateLimit({ rate, burst }: { [Part in keyof RateLimit]: number | null }): RateLimit | undefined {
  return rate === null || burst === null ? undefined : { rate, burst };
}
