-- Admission for the queue that lives in PostgreSQL: the same promises as packages/queue/src/redis/admission-scripts.ts.
-- It stands in a schema of its own, outside Prisma's model. Its connections may use synchronous_commit = off: a partner
-- is answered only after the enqueue that follows has been flushed, and that flush includes what admit wrote before.
CREATE SCHEMA admission;

-- The last version that a shard gave out. Its row lock puts the admissions of a shard in order.
CREATE TABLE admission.shards (
    shard integer PRIMARY KEY,
    last_version bigint NOT NULL
) WITH (fillfactor = 10);

-- The newest entry in flight of each customer; settled when it is persisted, so the table follows the backlog.
CREATE TABLE admission.claims (
    project_id integer NOT NULL,
    customer_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    erased boolean NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (project_id, customer_id)
) WITH (fillfactor = 70);

-- Gives each entry its version and the claim it replaces, in the order given. A customer may occur more than once.
CREATE FUNCTION admission.admit(
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

-- Drops the claims whose entries are persisted: those at or below the version given.
CREATE FUNCTION admission.settle(of_shard integer, project_ids integer[], customer_ids text[], versions bigint[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM admission.shards WHERE shard = of_shard FOR UPDATE; -- one order of locks: no deadlock with admit
    DELETE FROM admission.claims c
    USING unnest(project_ids, customer_ids, versions) AS s (project_id, customer_id, version)
    WHERE c.project_id = s.project_id AND c.customer_id = s.customer_id AND c.version <= s.version;
END $$;

-- Takes back the claims of a batch that was not enqueued, newest first, and restores what they had replaced.
CREATE FUNCTION admission.release(
    of_shard integer, of_project integer, customer_ids text[], versions bigint[],
    previous_versions bigint[], previous_erasures boolean[]
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM admission.shards WHERE shard = of_shard FOR UPDATE;
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
