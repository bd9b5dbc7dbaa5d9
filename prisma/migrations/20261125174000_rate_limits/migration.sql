-- AlterTable
ALTER TABLE "projects" ADD COLUMN     "burst" INTEGER,
ADD COLUMN     "rate" INTEGER;

-- Both or none, and no more than any ingress could let through: what is counted with them stays exact.
ALTER TABLE "projects" ADD CONSTRAINT "projects_limit_check" CHECK (
    ("rate" IS NULL) = ("burst" IS NULL)
    AND coalesce("rate" BETWEEN 1 AND 1000000 AND "burst" BETWEEN 1 AND 1000000, true)
);

-- Tokens for the queue that lives in PostgreSQL: the same as packages/queue/src/redis/redis-token-buckets.ts. The debt
-- is in millionths of tokens, and the clock that it was counted at in microseconds since 1970.
CREATE TABLE admission.buckets (
    project_id integer PRIMARY KEY,
    debt bigint NOT NULL,
    counted_at bigint NOT NULL
) WITH (fillfactor = 10);

CREATE FUNCTION admission.lease(of_project integer, rate bigint, burst bigint, wanted bigint, returned bigint)
RETURNS TABLE (granted bigint, available bigint, clock bigint)
LANGUAGE plpgsql AS $$
DECLARE
    parts constant bigint := 1000000;
    owed bigint;
    since bigint;
BEGIN
    INSERT INTO admission.buckets (project_id, debt, counted_at) VALUES (of_project, 0, 0) ON CONFLICT DO NOTHING;
    SELECT debt, counted_at INTO owed, since FROM admission.buckets WHERE project_id = of_project FOR UPDATE;
    clock := floor(extract(epoch FROM clock_timestamp()) * 1000000); -- of when it is our turn
    -- No longer than the debt lasts, or the product might not fit into 64 bits.
    owed := owed - returned * parts - rate * least(greatest(0, clock - since), owed / rate + 1);
    owed := least(burst * parts, greatest(0, owed));
    granted := least(wanted, (burst * parts - owed) / parts);
    owed := owed + granted * parts;
    available := burst * parts - owed;
    UPDATE admission.buckets SET debt = owed, counted_at = clock WHERE project_id = of_project;
    RETURN NEXT;
END $$;
