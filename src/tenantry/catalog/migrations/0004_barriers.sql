-- An error of a caller's condition can hold the value that it failed on, so none may see a row before the view's own
-- condition has (PostgreSQL: Rules and Privileges).
ALTER VIEW library_shards SET (security_barrier);
ALTER VIEW library_keys SET (security_barrier);

-- Whoever only reads leaves nothing behind. Without a superuser these stay open; they hold no data of the catalog.
DO $$
DECLARE
  f regprocedure;
BEGIN
  FOR f IN
    SELECT p.oid::regprocedure FROM pg_proc p
     WHERE p.pronamespace = 'pg_catalog'::regnamespace
       AND (p.proname ~ '^(lo_|lo(creat|read|write)|lowrite)' OR p.proname = 'pg_logical_emit_message')
  LOOP
    EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', f);
  END LOOP;
END $$;
