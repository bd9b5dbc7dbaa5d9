-- A chunk holds entries of any projects. The functions of the release before stay beside these: its ingresses may run still, and
-- call them without types, so these have other names.
--
-- Of a project's entries, one in 16 is counted, and counts 16: those whose version can be divided by it. So a chunk changes 13
-- rows of admission.backlogs at most, however many projects it is of. All entries of a shard are counted in its own row, which
-- each admission writes anyway. See packages/queue/src/backlog-sample.ts.
ALTER TABLE admission.shards ADD COLUMN waiting bigint NOT NULL DEFAULT 0;

UPDATE admission.shards s
SET waiting = (SELECT coalesce(sum(b.entries), 0) FROM admission.backlogs b WHERE b.shard = s.shard);

-- Adds to the counts, or takes away, but not below zero: a job that is done twice is counted down twice.
CREATE FUNCTION admission.add_to_backlog(of_shard integer, entries bigint, project_ids integer[], of_projects bigint[])
RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    UPDATE admission.shards s SET waiting = greatest(s.waiting + add_to_backlog.entries, 0) WHERE s.shard = of_shard;
    IF cardinality(project_ids) = 0 THEN
        RETURN;
    END IF;
    INSERT INTO admission.backlogs (shard, project_id, entries)
    SELECT of_shard, g.project_id, 0 FROM unnest(project_ids, of_projects) AS g (project_id, entries) WHERE g.entries > 0
    ON CONFLICT (shard, project_id) DO NOTHING;
    UPDATE admission.backlogs b SET entries = greatest(b.entries + g.entries, 0)
    FROM unnest(project_ids, of_projects) AS g (project_id, entries)
    WHERE b.shard = of_shard AND b.project_id = g.project_id;
END $$;

-- What entries count, up or, with sign -1, down.
CREATE FUNCTION admission.count(of_shard integer, project_ids integer[], versions bigint[], sign integer) RETURNS void
LANGUAGE sql AS $$
    SELECT admission.add_to_backlog(
        of_shard, sign * cardinality(project_ids),
        coalesce(array_agg(g.project_id), '{}'), coalesce(array_agg(g.entries), '{}')
    )
    FROM (
        SELECT g.project_id, sign * 16 * count(*) AS entries
        FROM unnest(project_ids, versions) AS g (project_id, version)
        WHERE g.version % 16 = 0
        GROUP BY g.project_id
    ) AS g
$$;

-- As `admit`, which is for entries of one project.
CREATE FUNCTION admission.admit_entries(
    of_shard integer, project_ids integer[], customer_ids text[], erasures boolean[], claim_ttl interval, known_version bigint
) RETURNS TABLE (version bigint, previous_version bigint, previous_erased boolean, backlog bigint)
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
        b.entries
    FROM given g
    LEFT JOIN admission.claims c -- as it was before this statement
        ON c.project_id = g.project_id AND c.customer_id = g.customer_id AND c.expires_at > now()
    LEFT JOIN admission.backlogs b ON b.shard = of_shard AND b.project_id = g.project_id AND g.version % 16 = 0
    WINDOW of_customer AS (PARTITION BY g.project_id, g.customer_id ORDER BY g.n)
    ORDER BY g.n;
END $$;

-- Entries that keep the versions that they have. A shard that has given no version yet begins above all rows.
CREATE FUNCTION admission.readmit(of_shard integer, project_ids integer[], versions bigint[])
RETURNS TABLE (project_id integer, backlog bigint)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO admission.shards (shard, last_version)
    SELECT of_shard, h.version FROM public.high_water_mark h
    WHERE NOT EXISTS (SELECT FROM admission.shards s WHERE s.shard = of_shard)
    ON CONFLICT (shard) DO NOTHING;
    PERFORM admission.count(of_shard, project_ids, versions, 1);
    RETURN QUERY
    SELECT b.project_id, b.entries FROM admission.backlogs b
    WHERE b.shard = of_shard AND b.project_id = ANY (
        SELECT g.project_id FROM unnest(project_ids, versions) AS g (project_id, version) WHERE g.version % 16 = 0
    );
END $$;

-- As before, for entries of any projects.
CREATE OR REPLACE FUNCTION admission.settle(of_shard integer, project_ids integer[], customer_ids text[], versions bigint[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM admission.count(of_shard, project_ids, versions, -1); -- locks the shard first, as admit does: no deadlock
    DELETE FROM admission.claims c
    USING unnest(project_ids, customer_ids, versions) AS s (project_id, customer_id, version)
    WHERE c.project_id = s.project_id AND c.customer_id = s.customer_id AND c.version <= s.version;
    IF EXISTS (SELECT FROM admission.pending_erasures) THEN
        DELETE FROM admission.pending_erasures p
        USING unnest(project_ids, customer_ids, versions) AS s (project_id, customer_id, version)
        WHERE p.project_id = s.project_id AND p.customer_id = s.customer_id AND p.version = s.version;
    END IF;
END $$;

-- As `release`, which is for entries of one project.
CREATE FUNCTION admission.release_entries(
    of_shard integer, project_ids integer[], customer_ids text[], versions bigint[],
    previous_versions bigint[], previous_erasures boolean[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM admission.count(of_shard, project_ids, versions, -1);
    FOR i IN REVERSE cardinality(customer_ids)..1 LOOP
        IF previous_versions[i] IS NULL THEN
            DELETE FROM admission.claims c
            WHERE c.project_id = project_ids[i] AND c.customer_id = customer_ids[i] AND c.version = versions[i];
        ELSE
            UPDATE admission.claims c SET version = previous_versions[i], erased = previous_erasures[i]
            WHERE c.project_id = project_ids[i] AND c.customer_id = customer_ids[i] AND c.version = versions[i];
        END IF;
        IF previous_erasures[i] THEN
            UPDATE admission.pending_erasures p SET version = previous_versions[i]
            WHERE p.project_id = project_ids[i] AND p.customer_id = customer_ids[i] AND p.version = versions[i];
        ELSE
            DELETE FROM admission.pending_erasures p
            WHERE p.project_id = project_ids[i] AND p.customer_id = customer_ids[i] AND p.version = versions[i];
        END IF;
    END LOOP;
END $$;


-- The same, and drops the counts of projects without a backlog.
CREATE FUNCTION admission.correct_backlog(of_shard integer, entries bigint, project_ids integer[], of_projects bigint[])
RETURNS void LANGUAGE sql AS $$
    SELECT admission.add_to_backlog(of_shard, entries, project_ids, of_projects);
    DELETE FROM admission.backlogs b WHERE b.shard = of_shard AND b.entries = 0;
$$;
