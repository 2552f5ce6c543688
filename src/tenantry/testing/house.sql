-- What a house of tests asks and does as a superuser.

-- homes --
SELECT DISTINCT database, schema FROM tenantry_catalog.spaces WHERE state = 'occupied' OR isolation = 'pooled'

-- own_databases --
SELECT DISTINCT database FROM tenantry_catalog.spaces WHERE isolation = 'database' AND state <> 'template'

-- moved --
UPDATE tenantry_catalog.spaces SET database = %s WHERE database = %s

-- empty --
-- Deletes all tenants' rows. Without triggers and foreign keys where a superuser asks; that takes a millisecond, while
-- TRUNCATE makes new files for each table. Numbers start again, so that a test sees the same ones whenever it runs.
DO $$
DECLARE
  t record;
  filled text[] := '{{}}';
  found boolean;
BEGIN
  FOR t IN SELECT c.oid::regclass::text AS name FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
             JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = {column} AND NOT a.attisdropped
            WHERE c.relkind = 'r' AND n.nspname = ANY ({schemas}) LOOP
    EXECUTE 'SELECT EXISTS (SELECT FROM ONLY ' || t.name || ')' INTO found;
    IF found THEN filled := filled || t.name; END IF;
  END LOOP;
  IF cardinality(filled) = 0 THEN
    RETURN;
  END IF;
  IF current_setting('is_superuser') = 'on' THEN
    SET LOCAL session_replication_role = replica;
    FOR t IN SELECT unnest(filled) AS name LOOP
      EXECUTE 'DELETE FROM ONLY ' || t.name;
    END LOOP;
  ELSE
    EXECUTE 'TRUNCATE ' || array_to_string(filled, ', ') || ' CASCADE';
  END IF;
  PERFORM setval(d.objid, s.seqstart, false)
     FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_sequence s ON s.seqrelid = d.objid
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.deptype IN ('a', 'i')
      AND d.refobjid IN (SELECT r::regclass FROM unnest(filled) r
                          UNION SELECT i.inhparent FROM unnest(filled) r
                                  JOIN pg_catalog.pg_inherits i ON i.inhrelid = r::regclass);
END $$;

-- leftovers --
-- Databases of runs that have ended without dropping them.
SELECT DISTINCT substring(datname FROM 'tenantry_test_([0-9a-f]{8})_') AS run FROM pg_catalog.pg_database
 WHERE datname ~ '^tenantry_test_[0-9a-f]{8}_(catalog|app)$'

-- templates --
SELECT d.datname AS name, shobj_description(d.oid, 'pg_database') AS state FROM pg_catalog.pg_database d
 WHERE d.datname ~ '^tenantry_test_tpl_'
