-- The high-water mark: no customer and no dead letter has a version above it. Workers raise it before they write, see
-- packages/store/src/high-water-mark.ts. A shard whose last version is unknown begins above it.
-- CreateTable
CREATE TABLE "high_water_mark" (
    "is_only" BOOLEAN NOT NULL DEFAULT true CHECK ("is_only"),
    "version" BIGINT NOT NULL,

    CONSTRAINT "high_water_mark_pkey" PRIMARY KEY ("is_only")
) WITH (fillfactor = 10);

-- Reads all customers once.
INSERT INTO "high_water_mark" ("version")
SELECT coalesce(max("version"), 0) FROM (
    SELECT greatest(
        max("email_version"), max("phone_version"), max("first_name_version"), max("last_name_version"),
        max("ip_version"), max("erased_version")
    ) FROM "customers"
    UNION ALL SELECT max("version") FROM "dead_letters"
    UNION ALL SELECT max("last_version") FROM admission.shards
) AS newest ("version");

-- As before, and above the mark where the shard's last version is unknown: to this queue, or to the process that asks, whose
-- known_version is NULL then. Otherwise known_version is the newest that it has seen.
CREATE FUNCTION admission.admit(
    of_shard integer, of_project integer, customer_ids text[], erasures boolean[], claim_ttl interval, known_version bigint
) RETURNS TABLE (version bigint, previous_version bigint, previous_erased boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    size integer := cardinality(customer_ids);
    clock bigint := floor(extract(epoch FROM clock_timestamp()) * 1000000);
    least_version bigint := known_version;
    base bigint;
BEGIN
    IF least_version IS NULL THEN
        SELECT h.version INTO STRICT least_version FROM public.high_water_mark h;
    END IF;
    UPDATE admission.shards s
    SET last_version = greatest(s.last_version + size, clock + size - 1, least_version + size)
    WHERE s.shard = of_shard
    RETURNING s.last_version - size + 1 INTO base;
    IF base IS NULL THEN
        SELECT greatest(least_version, h.version) INTO STRICT least_version FROM public.high_water_mark h;
        INSERT INTO admission.shards AS s (shard, last_version)
        VALUES (of_shard, greatest(clock + size - 1, least_version + size))
        ON CONFLICT (shard) DO UPDATE SET last_version = greatest(s.last_version + size, excluded.last_version)
        RETURNING last_version - size + 1 INTO base;
    END IF;

    PERFORM admission.count_up(of_shard, of_project, size);

    RETURN QUERY
    WITH given AS (
        SELECT g.customer_id, g.erased, base + g.n - 1 AS version, g.n
        FROM unnest(customer_ids, erasures) WITH ORDINALITY AS g (customer_id, erased, n)
    ), claimed AS (
        INSERT INTO admission.claims AS c (project_id, customer_id, version, erased, expires_at)
        SELECT DISTINCT ON (g.customer_id COLLATE "C") of_project, g.customer_id, g.version, g.erased, now() + claim_ttl
        FROM given g
        ORDER BY g.customer_id COLLATE "C", g.n DESC
        ON CONFLICT (project_id, customer_id) DO UPDATE
        SET version = excluded.version, erased = excluded.erased, expires_at = excluded.expires_at
    )
    SELECT
        g.version,
        coalesce(lag(g.version) OVER of_customer, c.version),
        coalesce(lag(g.erased) OVER of_customer, c.erased)
    FROM given g
    LEFT JOIN admission.claims c -- as it was before this statement
        ON c.project_id = of_project AND c.customer_id = g.customer_id AND c.expires_at > now()
    WINDOW of_customer AS (PARTITION BY g.customer_id ORDER BY g.n)
    ORDER BY g.n;
END $$;

-- For ingresses of the version before, which are replaced after the migration.
CREATE OR REPLACE FUNCTION admission.admit(
    of_shard integer, of_project integer, customer_ids text[], erasures boolean[], claim_ttl interval
) RETURNS TABLE (version bigint, previous_version bigint, previous_erased boolean)
LANGUAGE sql AS $$
    SELECT * FROM admission.admit(of_shard, of_project, customer_ids, erasures, claim_ttl, 0)
$$;
