-- Each acknowledged entry below this version is a row or a dead letter; 0 if unknown. Workers note it every half a minute, so a
-- restored database knows from when on entries may be missing.
-- AlterTable
ALTER TABLE "high_water_mark" ADD COLUMN "finished_before" BIGINT NOT NULL DEFAULT 0;
