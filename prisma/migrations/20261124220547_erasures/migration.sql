-- CreateTable
CREATE TABLE "erasures" (
    "project_id" INTEGER NOT NULL,
    "customer_id" TEXT NOT NULL,
    "version" BIGINT NOT NULL,

    CONSTRAINT "erasures_pkey" PRIMARY KEY ("project_id","customer_id")
);

-- CreateIndex
CREATE INDEX "erasures_version_idx" ON "erasures"("version");

-- The erasures that there are already.
INSERT INTO "erasures" SELECT "project_id", "customer_id", "erased_version" FROM "customers" WHERE "erased_version" > 0;
