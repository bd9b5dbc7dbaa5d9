-- What the partner called the request that brought a refused entry: its idempotency key and its own request id. Workers of the
-- release before leave it empty.
-- AlterTable
ALTER TABLE "dead_letters" ADD COLUMN "request_ids" JSONB;
