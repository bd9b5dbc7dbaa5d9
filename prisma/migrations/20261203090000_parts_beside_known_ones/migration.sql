-- The elements of an array at these places, which count from 1.
CREATE FUNCTION admission.pick(elements anyarray, places integer[]) RETURNS anyarray
LANGUAGE sql IMMUTABLE AS $$
    SELECT ARRAY(SELECT elements[p.place] FROM unnest(places) WITH ORDINALITY AS p (place, n) ORDER BY p.n)
$$;

-- As admit_entries, and writes an open record for each part: a part has `size` entries from place `first` (0 is the first
-- entry). Leaves out the parts that have a record that counts: for each of these it returns one row, with the part's place in
-- `part`. Then it returns one row for each admitted entry. For some parts, the row of the first entry has the bytes of the
-- project's records. Ingresses of the release before call admission.admit_keyed, which admits nothing if a part has a record.
CREATE FUNCTION admission.admit_parts(
    of_shard integer, project_ids integer[], customer_ids text[], erasures boolean[], claim_ttl interval,
    known_version bigint, part_ids bytea[], fingerprints text[], firsts integer[], sizes integer[],
    part_bytes integer[], part_projects integer[]
) RETURNS TABLE (
    version bigint, previous_version bigint, previous_erased boolean, backlog bigint,
    record_bytes bigint, part integer, fingerprint text, state text
)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    expired bigint := admission.expired_version(admission.lock_shard(of_shard));
    known record;
    known_parts integer[] := '{}';
    new_parts integer[];
    new_entries integer[];
    versions bigint[];
    previous_versions bigint[];
    previous_erasures boolean[];
    of_projects bigint[];
    flags text; -- a character per entry
    written integer;
BEGIN
    FOR known IN SELECT * FROM admission.find_records(of_shard, part_ids, expired) LOOP
        known_parts := known_parts || known.n;
        version := known.version;
        part := known.n - 1;
        fingerprint := known.fingerprint;
        state := known.state;
        RETURN NEXT;
    END LOOP;
    IF known_parts <> '{}' THEN
        new_entries := ARRAY(
            SELECT generate_subscripts(customer_ids, 1)
            EXCEPT
            SELECT generate_series(firsts[k.n] + 1, firsts[k.n] + sizes[k.n]) FROM unnest(known_parts) AS k (n)
            ORDER BY 1
        );
        IF new_entries = '{}' THEN
            RETURN;
        END IF;
        new_parts := ARRAY(SELECT generate_subscripts(part_ids, 1) EXCEPT SELECT unnest(known_parts) ORDER BY 1);
        firsts := ARRAY(
            SELECT array_position(new_entries, f.first + 1) - 1
            FROM unnest(admission.pick(firsts, new_parts)) WITH ORDINALITY AS f (first, n) ORDER BY f.n
        );
        part_ids := admission.pick(part_ids, new_parts);
        fingerprints := admission.pick(fingerprints, new_parts);
        sizes := admission.pick(sizes, new_parts);
        part_bytes := admission.pick(part_bytes, new_parts);
        part_projects := admission.pick(part_projects, new_parts);
        project_ids := admission.pick(project_ids, new_entries);
        customer_ids := admission.pick(customer_ids, new_entries);
        erasures := admission.pick(erasures, new_entries);
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

-- As before, and an entry also takes the claim of an older entry, whose version is below that of the part. Such a claim then
-- says erased only if it did and the entry erases. `holder` is `own` also for the claim of the part's first admission, which the
-- release of a repeat restores. The claim is locked, or a sweep could remove it before it is changed.
CREATE OR REPLACE FUNCTION admission.admit_again(
    of_shard integer, project_ids integer[], customer_ids text[], erasures boolean[], claim_ttl interval,
    known_version bigint, part_ids bytea[], firsts integer[], sizes integer[],
    part_versions bigint[], part_states text[], own_claims bigint[], new_states text[]
) RETURNS TABLE (version bigint, claim bigint, previous_version bigint, previous_erased boolean, holder text)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
#variable_conflict use_column
DECLARE
    expired bigint := admission.expired_version(admission.lock_shard(of_shard));
    size integer := cardinality(customer_ids);
    clock bigint := floor(extract(epoch FROM clock_timestamp()) * 1000000);
    least_version bigint := known_version;
    base bigint;
    part record;
    i integer;
    was_own boolean;
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
            WHERE c.project_id = project_ids[i] AND c.customer_id = customer_ids[i] AND c.expires_at > now()
            FOR UPDATE;
            -- A claim of the part before this call.
            was_own := previous_version BETWEEN part.own AND part.own + part.size - 1
                OR previous_version BETWEEN part.version AND part.version + part.size - 1;
            holder := CASE
                WHEN previous_version IS NULL THEN 'none'
                WHEN was_own OR previous_version BETWEEN part.claim AND claim THEN 'own'
                ELSE 'other'
            END;
            IF holder = 'none' AND NOT erasures[i] THEN
                INSERT INTO admission.claims AS c (project_id, customer_id, version, erased, expires_at)
                VALUES (project_ids[i], customer_ids[i], claim, false, now() + claim_ttl)
                ON CONFLICT (project_id, customer_id) DO UPDATE -- the claim has expired
                SET version = excluded.version, erased = excluded.erased, expires_at = excluded.expires_at;
            ELSIF holder = 'own' OR previous_version < part.version THEN
                UPDATE admission.claims c
                SET version = admit_again.claim, erased = c.erased AND (erasures[i] OR was_own),
                    expires_at = now() + claim_ttl
                WHERE c.project_id = project_ids[i] AND c.customer_id = customer_ids[i];
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
