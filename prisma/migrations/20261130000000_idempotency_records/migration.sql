-- What idempotency keys stand for, see packages/queue/src/idempotency.ts. Admission writes a record for each part of a
-- keyed request, in the transaction that admits its entries. A record counts for 24 h of versions, which are
-- microseconds since 1970. The tables and functions of the migration idempotency_share stay for ingresses of the
-- release before.
--
-- No index on version: its entries would take half as much space as the records. The sweep reads the table
-- page by page. A BRIN index would be small, but new records fill the pages of old ones, and then each of its ranges
-- seems to hold old records.
--
-- `id` has the bytes that the 16 characters encode: with text, a record and its index entry take a fifth more.
CREATE TABLE admission.idempotency_records (
    version bigint NOT NULL,
    shard smallint NOT NULL,
    id bytea NOT NULL,
    fingerprint text NOT NULL,
    state text NOT NULL,
    PRIMARY KEY (shard, id)
) WITH (autovacuum_vacuum_scale_factor = 0.05);

-- Bytes of each project's records, by the 12 hours of their versions. Only some records count, see
-- admission.count_record_bytes.
CREATE TABLE admission.idempotency_record_bytes (
    project_id integer NOT NULL,
    period bigint NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (project_id, period)
) WITH (fillfactor = 10);

-- Locks a shard, so that nobody else admits to it. A shard without a row gets one, above all rows of customers. Returns
-- the shard's newest version.
CREATE FUNCTION admission.lock_shard(of_shard integer) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    newest bigint;
BEGIN
    SELECT s.last_version INTO newest FROM admission.shards s WHERE s.shard = of_shard FOR UPDATE;
    IF newest IS NULL THEN
        INSERT INTO admission.shards (shard, last_version)
        SELECT of_shard, h.version FROM public.high_water_mark h
        ON CONFLICT (shard) DO NOTHING;
        SELECT s.last_version INTO STRICT newest FROM admission.shards s WHERE s.shard = of_shard FOR UPDATE;
    END IF;
    RETURN newest;
END $$;

-- The version of now: the clock, or the newest version of a shard if that is ahead of the clock. It may be null.
CREATE FUNCTION admission.now_version(newest bigint) RETURNS bigint LANGUAGE sql AS $$
    SELECT greatest(floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint, newest)
$$;

-- The newest version that is too old for a record to count.
CREATE FUNCTION admission.expired_version(newest bigint) RETURNS bigint LANGUAGE sql AS $$
    SELECT admission.now_version(newest) - 86400000000
$$;

-- The 12 hours of a version.
CREATE FUNCTION admission.record_period(version bigint) RETURNS bigint LANGUAGE sql IMMUTABLE AS $$
    SELECT version / 43200000000
$$;

-- Counts new records. Of 16 records one counts, 16 times: those whose version can be divided by 16. So a chunk changes few
-- rows, whatever its projects. The rows are locked in order of project_id, because other shards change them too.
CREATE FUNCTION admission.count_record_bytes(versions bigint[], project_ids integer[], bytes integer[])
RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    INSERT INTO admission.idempotency_record_bytes AS b (project_id, period, bytes)
    SELECT g.project_id, admission.record_period(min(g.version)), 16 * sum(g.bytes)
    FROM unnest(versions, project_ids, count_record_bytes.bytes) AS g (version, project_id, bytes)
    WHERE g.version % 16 = 0
    GROUP BY g.project_id
    ORDER BY g.project_id
    ON CONFLICT (project_id, period) DO UPDATE SET bytes = b.bytes + excluded.bytes;
END $$;

-- Bytes of a project's records that count at this version: those of three periods, which are the last 24 to 36 hours.
CREATE FUNCTION admission.read_record_bytes(of_version bigint, of_project integer) RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
    RETURN (
        SELECT coalesce(sum(b.bytes), 0) FROM admission.idempotency_record_bytes b
        WHERE b.project_id = of_project AND b.period >= admission.record_period(of_version) - 2
    );
END $$;

-- The records of these ids that count. `n` is the place of the id, from 1. For functions that look rows up by their
-- indexes.
CREATE FUNCTION admission.find_records(of_shard integer, ids bytea[], expired bigint)
RETURNS TABLE (n integer, fingerprint text, version bigint, state text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT g.n::integer, r.fingerprint, r.version, r.state
    FROM unnest(ids) WITH ORDINALITY AS g (id, n),
    LATERAL ( -- the limit has each looked up by itself
        SELECT r.fingerprint, r.version, r.state FROM admission.idempotency_records r
        WHERE r.shard = of_shard AND r.id = g.id
        LIMIT 1
    ) AS r
    WHERE r.version > expired
    ORDER BY g.n;
END $$;

-- As admit_entries, and writes an open record for each part: a part has `size` entries from place `first` (0 is the
-- first entry). If a part has a record that counts, it changes nothing, and returns one row for each such part, with
-- the part's place in `part`. Otherwise it returns one row for each entry. For some parts, the row of the first entry
-- has the bytes of the project's records.
CREATE FUNCTION admission.admit_keyed(
    of_shard integer, project_ids integer[], customer_ids text[], erasures boolean[], claim_ttl interval,
    known_version bigint, part_ids bytea[], fingerprints text[], firsts integer[], sizes integer[],
    part_bytes integer[], part_projects integer[]
) RETURNS TABLE (
    version bigint, previous_version bigint, previous_erased boolean, backlog bigint,
    record_bytes bigint, part integer, fingerprint text, state text
)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    expired bigint := admission.expired_version(admission.lock_shard(of_shard));
    versions bigint[];
    previous_versions bigint[];
    previous_erasures boolean[];
    of_projects bigint[];
    flags text; -- a character per entry
    written integer;
BEGIN
    RETURN QUERY
    SELECT r.version, NULL::bigint, NULL::boolean, NULL::bigint, NULL::bigint, r.n - 1, r.fingerprint, r.state
    FROM admission.find_records(of_shard, part_ids, expired) r;
    IF FOUND THEN
        RETURN;
    END IF;

    SELECT
        array_agg(a.version), array_agg(a.previous_version), array_agg(a.previous_erased), array_agg(a.backlog),
        string_agg(CASE WHEN a.previous_version IS NULL THEN '-' WHEN a.previous_erased THEN 'e' ELSE 'p' END, '')
    INTO versions, previous_versions, previous_erasures, of_projects, flags
    FROM admission.admit_entries(of_shard, project_ids, customer_ids, erasures, claim_ttl, known_version) a;

    -- In order of id, as everybody who locks records, so that there is no deadlock.
    INSERT INTO admission.idempotency_records AS r (version, shard, id, fingerprint, state)
    SELECT
        versions[1] + g.first, of_shard, g.id, g.fingerprint,
        ':' || g.size || ':' || CASE WHEN ltrim(g.flags, '-') = '' THEN '' ELSE g.flags END
    FROM (
        SELECT u.id, u.fingerprint, u.first, u.size, substr(flags, u.first + 1, u.size) AS flags
        FROM unnest(part_ids, fingerprints, firsts, sizes) AS u (id, fingerprint, first, size)
    ) AS g
    ORDER BY g.id
    ON CONFLICT (shard, id) DO UPDATE
    SET version = excluded.version, fingerprint = excluded.fingerprint, state = excluded.state
    WHERE r.version <= expired;
    GET DIAGNOSTICS written = ROW_COUNT;
    -- `remember` does not lock the shard, so it may have written a record since.
    IF written < cardinality(part_ids) THEN
        RAISE EXCEPTION 'a part is remembered by now' USING ERRCODE = 'serialization_failure';
    END IF;

    PERFORM admission.count_record_bytes(
        ARRAY(SELECT versions[1] + u.first FROM unnest(firsts) WITH ORDINALITY AS u (first, n) ORDER BY u.n),
        part_projects, part_bytes
    );

    RETURN QUERY
    SELECT
        a.version, a.previous_version, a.previous_erased, a.backlog,
        CASE WHEN p.project_id IS NOT NULL THEN admission.read_record_bytes(a.version, p.project_id) END,
        NULL::integer, NULL::text, NULL::text
    FROM unnest(versions, previous_versions, previous_erasures, of_projects) WITH ORDINALITY
        AS a (version, previous_version, previous_erased, backlog, n)
    LEFT JOIN ( -- one part of each sampled project
        SELECT DISTINCT ON (u.project_id) u.project_id, u.first
        FROM unnest(part_projects, firsts) AS u (project_id, first)
        WHERE (versions[1] + u.first) % 16 = 0
        ORDER BY u.project_id, u.first
    ) AS p ON p.first = a.n - 1
    ORDER BY a.n;
END $$;

-- Admits the entries of open parts again. The parts hold all entries, in order. An entry keeps the version of its
-- record, and gets a new version as its claim. Per part: the version and state that its record must have, the claim of
-- its first entry (`own_claims`), and the new state, to which this adds the new claim of its first entry. If a record
-- is otherwise, it returns no row and changes nothing. `holder`: whether the customer had this part's claim (own), no
-- claim (none), or another one (other), which then stays.
CREATE FUNCTION admission.admit_again(
    of_shard integer, project_ids integer[], customer_ids text[], erasures boolean[], claim_ttl interval,
    known_version bigint, part_ids bytea[], firsts integer[], sizes integer[],
    part_versions bigint[], part_states text[], own_claims bigint[], new_states text[]
) RETURNS TABLE (version bigint, claim bigint, previous_version bigint, previous_erased boolean, holder text)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    expired bigint := admission.expired_version(admission.lock_shard(of_shard));
    size integer := cardinality(customer_ids);
    clock bigint := floor(extract(epoch FROM clock_timestamp()) * 1000000);
    least_version bigint := known_version;
    base bigint;
    part record;
    i integer;
BEGIN
    -- In order of id, as everybody who locks records, so that there is no deadlock.
    FOR part IN
        SELECT u.id, u.version, u.state FROM unnest(part_ids, part_versions, part_states) AS u (id, version, state)
        ORDER BY u.id
    LOOP
        PERFORM FROM admission.idempotency_records r
        WHERE r.shard = of_shard AND r.id = part.id AND r.version = part.version AND r.version > expired
            AND r.state = part.state
        FOR UPDATE;
        IF NOT FOUND THEN
            RETURN;
        END IF;
    END LOOP;

    -- New versions, as admit_entries gives them.
    IF least_version IS NULL THEN
        SELECT h.version INTO STRICT least_version FROM public.high_water_mark h;
    END IF;
    UPDATE admission.shards s
    SET last_version = greatest(s.last_version + size, clock + size - 1, least_version + size),
        waiting = s.waiting + size
    WHERE s.shard = of_shard
    RETURNING s.last_version - size + 1 INTO base;
    INSERT INTO admission.backlogs AS b (shard, project_id, entries)
    SELECT of_shard, g.project_id, 16 * count(*)
    FROM unnest(project_ids) WITH ORDINALITY AS g (project_id, n)
    WHERE (base + g.n - 1) % 16 = 0
    GROUP BY g.project_id
    ON CONFLICT (shard, project_id) DO UPDATE SET entries = b.entries + excluded.entries;

    FOR part IN
        SELECT u.id, u.version, u.state, u.first, u.size, u.own, base + u.first AS claim
        FROM unnest(part_ids, part_versions, new_states, firsts, sizes, own_claims)
            AS u (id, version, state, first, size, own)
        ORDER BY u.first
    LOOP
        UPDATE admission.idempotency_records r SET state = part.state || ':' || part.claim
        WHERE r.shard = of_shard AND r.id = part.id;
        FOR step IN 0..part.size - 1 LOOP
            i := part.first + step + 1;
            version := part.version + step;
            claim := part.claim + step;
            SELECT c.version, c.erased INTO previous_version, previous_erased FROM admission.claims c
            WHERE c.project_id = project_ids[i] AND c.customer_id = customer_ids[i] AND c.expires_at > now();
            IF previous_version IS NULL THEN
                holder := 'none';
                IF NOT erasures[i] THEN
                    INSERT INTO admission.claims AS c (project_id, customer_id, version, erased, expires_at)
                    VALUES (project_ids[i], customer_ids[i], claim, false, now() + claim_ttl)
                    ON CONFLICT (project_id, customer_id) DO UPDATE -- the claim has expired
                    SET version = excluded.version, erased = excluded.erased, expires_at = excluded.expires_at;
                END IF;
            -- The part's claim, or that of an earlier entry of the part.
            ELSIF previous_version BETWEEN part.own AND part.own + part.size - 1
                OR previous_version BETWEEN part.claim AND claim THEN
                holder := 'own';
                UPDATE admission.claims c SET version = admit_again.claim, expires_at = now() + claim_ttl
                WHERE c.project_id = project_ids[i] AND c.customer_id = customer_ids[i];
            ELSE
                holder := 'other';
            END IF;
            IF erasures[i] THEN
                -- An erasure that is newer than the part's version stays pending, unless it is of the part itself.
                INSERT INTO admission.pending_erasures AS p (project_id, customer_id, version)
                VALUES (project_ids[i], customer_ids[i], claim)
                ON CONFLICT (project_id, customer_id) DO UPDATE SET version = excluded.version
                WHERE p.version < part.version + part.size
                    OR p.version BETWEEN part.own AND part.own + part.size - 1
                    OR p.version BETWEEN part.claim AND claim;
            END IF;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END $$;

-- Remembers each request whose id has no record that counts. Returns one row per request, in order: the record found,
-- or nulls.
CREATE FUNCTION admission.remember(
    of_shard integer, ids bytea[], fingerprints text[], project_ids integer[], bytes integer[]
) RETURNS TABLE (fingerprint text, version bigint, state text)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
#variable_conflict use_column
DECLARE
    newest bigint := (SELECT s.last_version FROM admission.shards s WHERE s.shard = of_shard);
    expired bigint := admission.expired_version(newest);
    now_version bigint := expired + 86400000000;
    found_records admission.idempotency_records[] :=
        array_fill(NULL::admission.idempotency_records, ARRAY[cardinality(ids)]);
    found_record admission.idempotency_records;
    new_versions bigint[] := '{}';
    new_projects integer[] := '{}';
    new_bytes integer[] := '{}';
    i integer;
BEGIN
    -- In order of id, as everybody who locks records, so that there is no deadlock.
    FOR i IN SELECT g.n FROM unnest(ids) WITH ORDINALITY AS g (id, n) ORDER BY g.id, g.n LOOP
        INSERT INTO admission.idempotency_records AS r (version, shard, id, fingerprint, state)
        VALUES (now_version, of_shard, ids[i], fingerprints[i], '')
        ON CONFLICT (shard, id) DO UPDATE
        SET version = excluded.version, fingerprint = excluded.fingerprint, state = excluded.state
        WHERE r.version <= expired;
        IF FOUND THEN
            new_versions := new_versions || now_version;
            new_projects := new_projects || project_ids[i];
            new_bytes := new_bytes || bytes[i];
        ELSE
            SELECT * INTO STRICT found_record FROM admission.idempotency_records r
            WHERE r.shard = of_shard AND r.id = ids[i]; -- locked by the conflict
            found_records[i] := found_record;
        END IF;
    END LOOP;
    PERFORM admission.count_record_bytes(new_versions, new_projects, new_bytes);
    RETURN QUERY
    SELECT f.fingerprint, f.version, f.state FROM unnest(found_records) WITH ORDINALITY AS f ORDER BY f.ordinality;
END $$;

-- The records of these ids that count.
CREATE FUNCTION admission.read_records(of_shard integer, ids bytea[])
RETURNS TABLE (n integer, fingerprint text, version bigint, state text)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
    RETURN QUERY
    SELECT r.n, r.fingerprint, r.version, r.state FROM admission.find_records(
        of_shard, ids,
        admission.expired_version((SELECT s.last_version FROM admission.shards s WHERE s.shard = of_shard))
    ) r;
END $$;

-- Sets the state of each record that is open and has this version. In order of id, so that there is no deadlock.
CREATE FUNCTION admission.close_records(of_shard integer, ids bytea[], versions bigint[], states text[]) RETURNS void
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT g.id, g.version, g.state FROM unnest(ids, versions, states) AS g (id, version, state)
        ORDER BY g.id
    LOOP
        UPDATE admission.idempotency_records r SET state = part.state
        WHERE r.shard = of_shard AND r.id = part.id AND r.version = part.version AND r.state LIKE ':%';
    END LOOP;
END $$;

-- Removes expired records from these pages of the table, and returns their number. Skips those that somebody has
-- locked: waiting for them could deadlock.
CREATE FUNCTION admission.sweep_records(first_page bigint, pages bigint) RETURNS bigint
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    expired bigint := admission.expired_version(NULL);
    removed bigint;
BEGIN
    DELETE FROM admission.idempotency_records WHERE ctid = ANY (ARRAY(
        SELECT r.ctid FROM admission.idempotency_records r
        WHERE r.ctid >= format('(%s,0)', first_page)::tid AND r.ctid < format('(%s,0)', first_page + pages)::tid
            AND r.version <= expired
        FOR UPDATE SKIP LOCKED
    ));
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END $$;

-- As before, but drops a claim only if it is exactly that of the entry. An entry that was admitted again may have a
-- claim above that of another entry, which must stay.
CREATE OR REPLACE FUNCTION admission.settle(
    of_shard integer, project_ids integer[], customer_ids text[], versions bigint[]
) RETURNS void LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
BEGIN
    PERFORM admission.count(of_shard, project_ids, versions, -1);
    DELETE FROM admission.claims WHERE ctid = ANY (ARRAY(
        SELECT c.ctid FROM unnest(project_ids, customer_ids, versions) AS s (project_id, customer_id, version),
        LATERAL (
            SELECT c.ctid FROM admission.claims c
            WHERE c.project_id = s.project_id AND c.customer_id = s.customer_id AND c.version = s.version
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
