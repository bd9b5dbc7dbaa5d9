-- The entries of each project that wait in a shard: for fairness between projects, and to know when enough is waiting.
-- Off by the entries of a process that was killed, until it is reset while the queue is empty.
CREATE TABLE admission.backlogs (
    shard integer NOT NULL,
    project_id integer NOT NULL,
    entries bigint NOT NULL,
    PRIMARY KEY (shard, project_id)
) WITH (fillfactor = 10);

CREATE FUNCTION admission.count_up(of_shard integer, of_project integer, more bigint) RETURNS bigint
LANGUAGE sql AS $$
    INSERT INTO admission.backlogs AS b (shard, project_id, entries) VALUES (of_shard, of_project, more)
    ON CONFLICT (shard, project_id) DO UPDATE SET entries = b.entries + excluded.entries
    RETURNING entries
$$;

-- A job that is done twice is counted down twice, but not below zero.
CREATE FUNCTION admission.count_down(of_shard integer, of_project integer, fewer bigint) RETURNS void
LANGUAGE sql AS $$
    UPDATE admission.backlogs SET entries = greatest(entries - fewer, 0)
    WHERE shard = of_shard AND project_id = of_project
$$;

-- As before, and counts the entries.
CREATE OR REPLACE FUNCTION admission.admit(
    of_shard integer, of_project integer, customer_ids text[], erasures boolean[], claim_ttl interval
) RETURNS TABLE (version bigint, previous_version bigint, previous_erased boolean)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    size integer := cardinality(customer_ids);
    clock bigint := floor(extract(epoch FROM clock_timestamp()) * 1000000);
    base bigint;
BEGIN
    INSERT INTO admission.shards AS s (shard, last_version) VALUES (of_shard, clock + size - 1)
    ON CONFLICT (shard) DO UPDATE SET last_version = greatest(s.last_version + size, excluded.last_version)
    RETURNING last_version - size + 1 INTO base;

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

-- As before, and counts the entries.
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
END $$;

-- As before, and counts the entries.
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
    END LOOP;
END $$;
