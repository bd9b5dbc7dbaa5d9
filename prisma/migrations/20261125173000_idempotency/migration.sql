-- First answers for the queue that lives in PostgreSQL: the same promises as packages/queue/src/redis/idempotency-scripts.ts.
-- While a request is under way its row has a token and expires with the lease; then it has the answer.
CREATE TABLE admission.idempotency_keys (
    id text COLLATE "C" PRIMARY KEY,
    fingerprint text NOT NULL,
    token text,
    status smallint,
    body text,
    expires_at timestamptz NOT NULL
);

CREATE INDEX idempotency_keys_expires_at_idx ON admission.idempotency_keys (expires_at);

-- Gives each request its key for the time of the lease, or answers with what is there. One row per request, in order; all
-- null where it has the key. Rows are locked in the order of their ids: no deadlock between two calls.
CREATE FUNCTION admission.begin_keyed(ids text[], fingerprints text[], tokens text[], lease interval)
RETURNS TABLE (fingerprint text, status smallint, body text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    found_rows admission.idempotency_keys[] := array_fill(NULL::admission.idempotency_keys, ARRAY[cardinality(ids)]);
    found_row admission.idempotency_keys;
    i integer;
BEGIN
    FOR i IN SELECT n FROM unnest(ids) WITH ORDINALITY AS u (id, n) ORDER BY id COLLATE "C", n LOOP
        INSERT INTO admission.idempotency_keys AS k (id, fingerprint, token, expires_at)
        VALUES (ids[i], fingerprints[i], tokens[i], clock_timestamp() + lease)
        ON CONFLICT (id) DO UPDATE
        SET fingerprint = excluded.fingerprint, token = excluded.token, status = NULL, body = NULL, expires_at = excluded.expires_at
        WHERE k.expires_at <= clock_timestamp();
        CONTINUE WHEN FOUND;
        SELECT * INTO STRICT found_row FROM admission.idempotency_keys WHERE id = ids[i]; -- locked by the conflict
        found_rows[i] := found_row;
    END LOOP;
    RETURN QUERY SELECT f.fingerprint, f.status, f.body FROM unnest(found_rows) WITH ORDINALITY AS f ORDER BY f.ordinality;
END $$;

-- Keeps the answers of the requests that still have their keys, or whose keys nobody has; frees the keys of those without
-- an answer. Answers as begin_keyed does, where somebody else has the key.
CREATE FUNCTION admission.end_keyed(
    ids text[], fingerprints text[], tokens text[], statuses smallint[], bodies text[], keep interval
) RETURNS TABLE (fingerprint text, status smallint, body text)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    found_rows admission.idempotency_keys[] := array_fill(NULL::admission.idempotency_keys, ARRAY[cardinality(ids)]);
    found_row admission.idempotency_keys;
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
        CONTINUE WHEN FOUND;
        SELECT * INTO STRICT found_row FROM admission.idempotency_keys WHERE id = ids[i]; -- locked by the conflict
        found_rows[i] := found_row;
    END LOOP;
    RETURN QUERY SELECT f.fingerprint, f.status, f.body FROM unnest(found_rows) WITH ORDINALITY AS f ORDER BY f.ordinality;
END $$;
