-- AlterTable
ALTER TABLE "api_keys" ADD COLUMN "label" TEXT;

-- When each key was last used. Ingresses report it; in "api_keys" each report would change the revision of the keys.
-- CreateTable
CREATE TABLE "key_uses" (
    "key_id" INTEGER NOT NULL,
    "used_at" TIMESTAMPTZ(6) NOT NULL,

    CONSTRAINT "key_uses_pkey" PRIMARY KEY ("key_id")
);
