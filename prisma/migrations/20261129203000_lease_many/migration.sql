-- `lease` for many projects with one statement. In the order of their ids, so that two of them do not wait for each other's buckets.
-- Of a bucket that somebody holds, nothing is returned.
CREATE FUNCTION admission.lease_many(
    project_ids integer[], rates bigint[], bursts bigint[], wanted bigint[], returned bigint[]
) RETURNS TABLE (place integer, granted bigint, available bigint, clock bigint)
LANGUAGE plpgsql SET lock_timeout = '100ms' AS $$
DECLARE
    call record;
BEGIN
    FOR call IN
        SELECT * FROM unnest(project_ids, rates, bursts, wanted, returned)
            WITH ORDINALITY AS c (project_id, rate, burst, wanted, returned, place)
        ORDER BY c.project_id, c.place
    LOOP
        place := call.place;
        BEGIN
            SELECT l.granted, l.available, l.clock INTO granted, available, clock
            FROM admission.lease(call.project_id, call.rate, call.burst, call.wanted, call.returned) AS l;
            RETURN NEXT;
        EXCEPTION WHEN lock_not_available THEN NULL;
        END;
    END LOOP;
END $$;
