-- Below ten elements in an array, PostgreSQL takes a plan for this array for cheaper than the one it keeps, and plans each such
-- statement anew, which takes longer than a small chunk. So these functions use the plan that they keep.
DO $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN
        SELECT oid FROM pg_proc
        WHERE pronamespace = 'admission'::regnamespace AND proname IN (
            'add_to_backlog', 'admit_again', 'admit_entries', 'admit_keyed', 'close_parts', 'read_records', 'remember', 'settle'
        )
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET plan_cache_mode = force_generic_plan', function);
    END LOOP;
END $$;
