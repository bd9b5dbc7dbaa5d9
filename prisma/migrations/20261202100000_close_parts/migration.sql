-- Both states are closed: '=', the number of entries, ':', and a bit per entry as hexadecimal digits. Returns the bits that
-- both have. They are the entries whose customers existed: an attempt that does not know says that they existed.
CREATE FUNCTION admission.merge_states(state text, other text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
    SELECT split_part(state, ':', 1) || ':' || (
        SELECT string_agg(to_hex((('x' || a)::bit(4) & ('x' || b)::bit(4))::integer), '' ORDER BY place)
        FROM unnest(string_to_array(split_part(state, ':', 2), NULL), string_to_array(split_part(other, ':', 2), NULL))
            WITH ORDINALITY AS digits (a, b, place)
    )
$$;

-- Closes the records that have this version. Merges the state of one that a concurrent attempt has closed before. Returns the
-- place and the state of each part whose state differs from the given one now. In order of id, so that there is no deadlock.
-- Ingresses of the release before call admission.close_records, which leaves closed records alone.
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
        UPDATE admission.idempotency_records r
        SET state = CASE WHEN r.state LIKE ':%' THEN part.state ELSE admission.merge_states(r.state, part.state) END
        WHERE r.shard = of_shard AND r.id = part.id AND r.version = part.version AND r.state NOT IN ('', part.state)
        RETURNING r.state INTO state;
        n := part.place;
        IF state <> part.state THEN RETURN NEXT; END IF;
    END LOOP;
END $$;
