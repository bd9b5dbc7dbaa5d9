-- A project's answers to idempotency keys may take a share of the store: the same as
-- packages/queue/src/redis/idempotency-scripts.ts. Bytes are counted by the hour at whose end the answers have ended, in several
-- rows per hour, so that concurrent calls do not wait for one another's flush.
CREATE TABLE admission.idempotency_bytes (
    project_id integer NOT NULL,
    ends_at timestamptz NOT NULL,
    slot smallint NOT NULL,
    bytes bigint NOT NULL,
    PRIMARY KEY (project_id, ends_at, slot)
) WITH (fillfactor = 50);

CREATE INDEX idempotency_bytes_ends_at_idx ON admission.idempotency_bytes (ends_at);

-- The functions without a project stay for ingresses of the version before, which count nothing.

-- Gives each request its key for the time of the lease, or answers with what is there. One row per request, in order; all
-- null where it has the key, with an empty fingerprint where the key is new and the project has no room for its answer.
-- Rows are locked in the order of their ids: no deadlock between two calls.
CREATE FUNCTION admission.begin_keyed(
    ids text[], fingerprints text[], tokens text[], lease interval, of_project integer, max_bytes bigint
) RETURNS TABLE (fingerprint text, status smallint, body text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    found_rows admission.idempotency_keys[] := array_fill(NULL::admission.idempotency_keys, ARRAY[cardinality(ids)]);
    found_row admission.idempotency_keys;
    has_room boolean;
    i integer;
BEGIN
    SELECT coalesce(sum(b.bytes), 0) < max_bytes INTO has_room
    FROM admission.idempotency_bytes b WHERE b.project_id = of_project AND b.ends_at > clock_timestamp();
    FOR i IN SELECT n FROM unnest(ids) WITH ORDINALITY AS u (id, n) ORDER BY id COLLATE "C", n LOOP
        IF has_room THEN
            INSERT INTO admission.idempotency_keys AS k (id, fingerprint, token, expires_at)
            VALUES (ids[i], fingerprints[i], tokens[i], clock_timestamp() + lease)
            ON CONFLICT (id) DO UPDATE
            SET fingerprint = excluded.fingerprint, token = excluded.token, status = NULL, body = NULL, expires_at = excluded.expires_at
            WHERE k.expires_at <= clock_timestamp();
            CONTINUE WHEN FOUND;
            SELECT * INTO STRICT found_row FROM admission.idempotency_keys WHERE id = ids[i]; -- locked by the conflict
        ELSE
            SELECT * INTO found_row FROM admission.idempotency_keys WHERE id = ids[i] AND expires_at > clock_timestamp();
            IF NOT FOUND THEN
                found_row.fingerprint := '';
            END IF;
        END IF;
        found_rows[i] := found_row;
    END LOOP;
    RETURN QUERY SELECT f.fingerprint, f.status, f.body FROM unnest(found_rows) WITH ORDINALITY AS f ORDER BY f.ordinality;
END $$;

-- Keeps the answers of the requests that still have their keys, or whose keys nobody has, and counts what they take; frees the
-- keys of those without an answer. Answers as begin_keyed does, where somebody else has the key.
CREATE FUNCTION admission.end_keyed(
    ids text[], fingerprints text[], tokens text[], statuses smallint[], bodies text[], keep interval, of_project integer
) RETURNS TABLE (fingerprint text, status smallint, body text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    overhead constant integer := 200;
    compressed_from constant integer := 2000;
    found_rows admission.idempotency_keys[] := array_fill(NULL::admission.idempotency_keys, ARRAY[cardinality(ids)]);
    found_row admission.idempotency_keys;
    kept bigint := 0;
    size integer;
    i integer;
BEGIN
    -- The partner is told what is kept here, and no enqueue follows that would flush it.
    PERFORM set_config('synchronous_commit', 'on', true);
    FOR i IN SELECT n FROM unnest(ids) WITH ORDINALITY AS u (id, n) ORDER BY id COLLATE "C", n LOOP
        IF statuses[i] IS NULL THEN
            DELETE FROM admission.idempotency_keys WHERE id = ids[i] AND token = tokens[i];
            CONTINUE;
        END IF;
        INSERT INTO admission.idempotency_keys AS k (id, fingerprint, status, body, expires_at)
        VALUES (ids[i], fingerprints[i], statuses[i], bodies[i], clock_timestamp() + keep)
        ON CONFLICT (id) DO UPDATE
        SET fingerprint = excluded.fingerprint, token = NULL, status = excluded.status, body = excluded.body, expires_at = excluded.expires_at
        WHERE k.token = tokens[i] OR k.expires_at <= clock_timestamp();
        IF FOUND THEN
            size := octet_length(bodies[i]);
            IF size >= compressed_from THEN
                SELECT pg_column_size(k.body) INTO size FROM admission.idempotency_keys k WHERE k.id = ids[i];
            END IF;
            kept := kept + overhead + size;
            CONTINUE;
        END IF;
        SELECT * INTO STRICT found_row FROM admission.idempotency_keys WHERE id = ids[i]; -- locked by the conflict
        found_rows[i] := found_row;
    END LOOP;
    -- Last, so that nobody who waits for a key has this row.
    IF kept > 0 THEN
        INSERT INTO admission.idempotency_bytes AS b (project_id, ends_at, slot, bytes)
        VALUES (
            of_project,
            date_bin('1 hour', clock_timestamp() + keep, 'epoch') + interval '1 hour',
            pg_backend_pid() % 8,
            kept
        )
        ON CONFLICT (project_id, ends_at, slot) DO UPDATE SET bytes = b.bytes + excluded.bytes;
    END IF;
    RETURN QUERY SELECT f.fingerprint, f.status, f.body FROM unnest(found_rows) WITH ORDINALITY AS f ORDER BY f.ordinality;
END $$;
