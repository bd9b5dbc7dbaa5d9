-- What a key may do, and the addresses that may use it; no address means any. Keys of before may do everything.
-- AlterTable
ALTER TABLE "api_keys" ADD COLUMN "scopes" TEXT[] NOT NULL DEFAULT ARRAY['write', 'read', 'erase'],
ADD COLUMN "addresses" TEXT[] NOT NULL DEFAULT ARRAY[]::TEXT[];
