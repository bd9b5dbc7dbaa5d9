-- Partners can ask what became of an entry: dead letters that were replayed or discarded stay for 30 days, without payload
-- and error, see packages/store/src/dead-letters.ts. Workers of the release before leave the new columns empty.
ALTER TABLE "dead_letters"
    ADD COLUMN "receipt" TEXT,
    ADD COLUMN "field" TEXT,
    ADD COLUMN "resolution" TEXT,
    ADD COLUMN "resolved_at" TIMESTAMPTZ(6);

-- Only open letters are unique. So an entry that is rejected again after its replay becomes a letter again, also if a worker
-- of the release before inserts it with ON CONFLICT DO NOTHING.
-- CreateIndex
CREATE UNIQUE INDEX "dead_letters_open_key" ON "dead_letters"("project_id", "customer_id", "version") WHERE "resolution" IS NULL;

-- CreateIndex
CREATE INDEX "dead_letters_project_id_customer_id_version_idx" ON "dead_letters"("project_id", "customer_id", "version");

-- DropIndex
DROP INDEX "dead_letters_project_id_customer_id_version_key";

-- CreateIndex
CREATE INDEX "dead_letters_project_id_created_at_id_idx" ON "dead_letters"("project_id", "created_at", "id");

-- CreateIndex
CREATE INDEX "dead_letters_resolved_at_idx" ON "dead_letters"("resolved_at");
