-- PostgreSQL keeps the plan of a statement in a function. But the claims and backlogs are few when it plans, and a million some
-- seconds later: a join that reads the whole table then does so for each chunk. So these functions join nothing. They look each
-- row up by itself, and by its index even if the table is small. The one row of high_water_mark has no index; up to
-- PostgreSQL 17 reading it counts as so expensive then that the statement would be compiled first.

CREATE OR REPLACE FUNCTION admission.add_to_backlog(
    of_shard integer, entries bigint, project_ids integer[], of_projects bigint[]
) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    of_project record;
BEGIN
    UPDATE admission.shards s SET waiting = greatest(s.waiting + add_to_backlog.entries, 0) WHERE s.shard = of_shard;
    FOR of_project IN SELECT g.id, g.entries FROM unnest(project_ids, of_projects) AS g (id, entries) LOOP
        UPDATE admission.backlogs b SET entries = greatest(b.entries + of_project.entries, 0)
        WHERE b.shard = of_shard AND b.project_id = of_project.id;
        IF NOT FOUND AND of_project.entries > 0 THEN
            INSERT INTO admission.backlogs (shard, project_id, entries)
            VALUES (of_shard, of_project.id, of_project.entries);
        END IF;
    END LOOP;
END $$;

CREATE OR REPLACE FUNCTION admission.admit_entries(
    of_shard integer, project_ids integer[], customer_ids text[], erasures boolean[], claim_ttl interval, known_version bigint
) RETURNS TABLE (version bigint, previous_version bigint, previous_erased boolean, backlog bigint)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
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
    SET last_version = greatest(s.last_version + size, clock + size - 1, least_version + size), waiting = s.waiting + size
    WHERE s.shard = of_shard
    RETURNING s.last_version - size + 1 INTO base;
    IF base IS NULL THEN
        SELECT greatest(least_version, h.version) INTO STRICT least_version FROM public.high_water_mark h;
        INSERT INTO admission.shards AS s (shard, last_version, waiting)
        VALUES (of_shard, greatest(clock + size - 1, least_version + size), size)
        ON CONFLICT (shard) DO UPDATE
        SET last_version = greatest(s.last_version + size, excluded.last_version), waiting = s.waiting + size
        RETURNING last_version - size + 1 INTO base;
    END IF;

    IF (16 - base % 16) % 16 < size THEN
        INSERT INTO admission.backlogs AS b (shard, project_id, entries)
        SELECT of_shard, g.project_id, 16 * count(*)
        FROM unnest(project_ids) WITH ORDINALITY AS g (project_id, n)
        WHERE (base + g.n - 1) % 16 = 0
        GROUP BY g.project_id
        ON CONFLICT (shard, project_id) DO UPDATE SET entries = b.entries + excluded.entries;
    END IF;

    IF true = ANY (erasures) THEN
        INSERT INTO admission.pending_erasures AS p (project_id, customer_id, version)
        SELECT g.project_id, g.customer_id, max(base + g.n - 1)
        FROM unnest(project_ids, customer_ids, erasures) WITH ORDINALITY AS g (project_id, customer_id, erased, n)
        WHERE g.erased
        GROUP BY g.project_id, g.customer_id
        ON CONFLICT (project_id, customer_id) DO UPDATE SET version = excluded.version;
    END IF;

    RETURN QUERY
    WITH given AS (
        SELECT g.project_id, g.customer_id COLLATE "C" AS customer_id, g.erased, base + g.n - 1 AS version, g.n
        FROM unnest(project_ids, customer_ids, erasures) WITH ORDINALITY AS g (project_id, customer_id, erased, n)
    ), claimed AS (
        INSERT INTO admission.claims AS c (project_id, customer_id, version, erased, expires_at)
        SELECT DISTINCT ON (g.project_id, g.customer_id)
            g.project_id, g.customer_id, g.version, g.erased, now() + claim_ttl
        FROM given g
        ORDER BY g.project_id, g.customer_id, g.n DESC
        ON CONFLICT (project_id, customer_id) DO UPDATE
        SET version = excluded.version, erased = excluded.erased, expires_at = excluded.expires_at
    )
    SELECT
        g.version,
        coalesce(lag(g.version) OVER of_customer, c.version),
        coalesce(lag(g.erased) OVER of_customer, c.erased),
        CASE WHEN g.version % 16 = 0 THEN (
            SELECT b.entries FROM admission.backlogs b WHERE b.shard = of_shard AND b.project_id = g.project_id
        ) END
    FROM given g
    LEFT JOIN LATERAL ( -- as it was before this statement; the limit has each looked up by itself
        SELECT c.version, c.erased FROM admission.claims c
        WHERE c.project_id = g.project_id AND c.customer_id = g.customer_id AND c.expires_at > now()
        LIMIT 1
    ) AS c ON true
    WINDOW of_customer AS (PARTITION BY g.project_id, g.customer_id ORDER BY g.n)
    ORDER BY g.n;
END $$;

-- The rows are found first, each by itself, and deleted by where they are. They stay there: whoever writes a claim or an erasure has
-- locked its shard before, as this does, and the sweep, which has not, only deletes. With the shard locked first there is no deadlock.
CREATE OR REPLACE FUNCTION admission.settle(of_shard integer, project_ids integer[], customer_ids text[], versions bigint[])
RETURNS void LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
    PERFORM admission.count(of_shard, project_ids, versions, -1);
    DELETE FROM admission.claims WHERE ctid = ANY (ARRAY(
        SELECT c.ctid FROM unnest(project_ids, customer_ids, versions) AS s (project_id, customer_id, version),
        LATERAL (
            SELECT c.ctid FROM admission.claims c
            WHERE c.project_id = s.project_id AND c.customer_id = s.customer_id AND c.version <= s.version
            LIMIT 1
        ) AS c
    ));
    IF EXISTS (SELECT FROM admission.pending_erasures) THEN
        DELETE FROM admission.pending_erasures WHERE ctid = ANY (ARRAY(
            SELECT p.ctid FROM unnest(project_ids, customer_ids, versions) AS s (project_id, customer_id, version),
            LATERAL (
                SELECT p.ctid FROM admission.pending_erasures p
                WHERE p.project_id = s.project_id AND p.customer_id = s.customer_id AND p.version = s.version
                LIMIT 1
            ) AS p
        ));
    END IF;
END $$;
