-- Runs a statement once with each list of arguments, a JSON array, so that one that fails takes back nothing of the others.
-- Returns the places of those that failed, from 1, and what with. What was written is locked until the end, so it stops behind one
-- that waited for a lock in vain, and after half a second: at the place that has no sql_state.
CREATE FUNCTION try_each(statement text, calls text[]) RETURNS TABLE (place integer, sql_state text, message text)
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan SET lock_timeout = '100ms' AS $$
DECLARE
    prepared text := 'each_' || left(encode(sha256(convert_to(statement, 'UTF8')), 'hex'), 32);
    arguments text;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_prepared_statements p WHERE p.name = prepared) THEN
        EXECUTE format('PREPARE %I AS %s', prepared, statement);
    END IF;
    FOR i IN 1..cardinality(calls) LOOP
        place := i;
        sql_state := NULL;
        message := NULL;
        IF i > 1 AND clock_timestamp() > statement_timestamp() + interval '500 milliseconds' THEN
            RETURN NEXT;
            EXIT;
        END IF;
        BEGIN
            SELECT string_agg(quote_nullable(a.value), ', ' ORDER BY a.n) INTO arguments
            FROM json_array_elements_text(calls[i]::json) WITH ORDINALITY AS a (value, n);
            EXECUTE format('EXECUTE %I(%s)', prepared, arguments);
        EXCEPTION WHEN OTHERS THEN
            sql_state := SQLSTATE;
            message := SQLERRM;
            RETURN NEXT;
            EXIT WHEN SQLSTATE = '55P03';
        END;
    END LOOP;
END $$;
