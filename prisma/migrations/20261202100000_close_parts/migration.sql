-- Sets the state of each record that is open and has this version, as admission.close_records does for ingresses of the release
-- before. Returns the place and the state of each part that has another state already: a concurrent attempt with the same
-- idempotency key has decided it, and all attempts give the same answer. In order of id, so that there is no deadlock.
CREATE FUNCTION admission.close_parts(of_shard integer, ids bytea[], versions bigint[], states text[])
RETURNS TABLE (n integer, state text)
LANGUAGE plpgsql SET enable_seqscan = off SET jit = off AS $$
DECLARE
    part record;
BEGIN
    FOR part IN
        SELECT g.place, g.id, g.version, g.state
        FROM unnest(ids, versions, states) WITH ORDINALITY AS g (id, version, state, place)
        ORDER BY g.id
    LOOP
        UPDATE admission.idempotency_records r SET state = part.state
        WHERE r.shard = of_shard AND r.id = part.id AND r.version = part.version AND r.state LIKE ':%';
        CONTINUE WHEN FOUND;
        RETURN QUERY
        SELECT part.place::integer, r.state FROM admission.idempotency_records r
        WHERE r.shard = of_shard AND r.id = part.id AND r.version = part.version
            AND r.state LIKE '=%' AND r.state <> part.state;
    END LOOP;
END $$;
