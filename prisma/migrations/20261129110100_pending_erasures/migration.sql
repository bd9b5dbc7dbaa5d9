-- The newest erasure of each customer that was admitted and is not persisted. A claim tells of the newest entry only: once a
-- newer entry is settled, nothing else says that the row still shows what is to be erased.
CREATE TABLE admission.pending_erasures (
    project_id integer NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    PRIMARY KEY (project_id, customer_id)
);

INSERT INTO admission.pending_erasures
SELECT project_id, customer_id, version FROM admission.claims WHERE erased;

-- As before, and notes the erasures.
CREATE OR REPLACE FUNCTION admission.admit(
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

    IF true = ANY (erasures) THEN
        INSERT INTO admission.pending_erasures AS p (project_id, customer_id, version)
        SELECT of_project, g.customer_id, max(base + g.n - 1)
        FROM unnest(customer_ids, erasures) WITH ORDINALITY AS g (customer_id, erased, n)
        WHERE g.erased
        GROUP BY g.customer_id
        ON CONFLICT (project_id, customer_id) DO UPDATE SET version = excluded.version;
    END IF;

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

-- As before; an erasure is pending until it is itself persisted, whatever is newer.
CREATE OR REPLACE FUNCTION admission.settle(of_shard integer, project_ids integer[], customer_ids text[], versions bigint[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM admission.shards WHERE shard = of_shard FOR UPDATE; -- one order of locks: no deadlock with admit
    PERFORM admission.count_down(of_shard, s.project_id, count(*))
    FROM unnest(project_ids) AS s (project_id)
    GROUP BY s.project_id;
    DELETE FROM admission.claims c
    USING unnest(project_ids, customer_ids, versions) AS s (project_id, customer_id, version)
    WHERE c.project_id = s.project_id AND c.customer_id = s.customer_id AND c.version <= s.version;
    IF EXISTS (SELECT FROM admission.pending_erasures) THEN
        DELETE FROM admission.pending_erasures p
        USING unnest(project_ids, customer_ids, versions) AS s (project_id, customer_id, version)
        WHERE p.project_id = s.project_id AND p.customer_id = s.customer_id AND p.version = s.version;
    END IF;
END $$;

-- As before; an erasure that was not enqueued gives its place back to the one that it had replaced.
CREATE OR REPLACE FUNCTION admission.release(
    of_shard integer, of_project integer, customer_ids text[], versions bigint[],
    previous_versions bigint[], previous_erasures boolean[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM admission.shards WHERE shard = of_shard FOR UPDATE;
    PERFORM admission.count_down(of_shard, of_project, cardinality(customer_ids));
    FOR i IN REVERSE cardinality(customer_ids)..1 LOOP
        IF previous_versions[i] IS NULL THEN
            DELETE FROM admission.claims c
            WHERE c.project_id = of_project AND c.customer_id = customer_ids[i] AND c.version = versions[i];
        ELSE
            UPDATE admission.claims c SET version = previous_versions[i], erased = previous_erasures[i]
            WHERE c.project_id = of_project AND c.customer_id = customer_ids[i] AND c.version = versions[i];
        END IF;
        IF previous_erasures[i] THEN
            UPDATE admission.pending_erasures p SET version = previous_versions[i]
            WHERE p.project_id = of_project AND p.customer_id = customer_ids[i] AND p.version = versions[i];
        ELSE
            DELETE FROM admission.pending_erasures p
            WHERE p.project_id = of_project AND p.customer_id = customer_ids[i] AND p.version = versions[i];
        END IF;
    END LOOP;
END $$;
