-- What is read to delete a tenant's rows from shared tables.

-- tables --
-- Every table that stores rows, with the topmost one that it is a part of; parts may stand in other schemas.
WITH RECURSIVE parts AS (
  SELECT c.oid, c.oid AS root FROM pg_catalog.pg_class c
   WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind IN ('r', 'p')
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid)
  UNION ALL
  SELECT i.inhrelid, p.root FROM parts p JOIN pg_catalog.pg_inherits i ON i.inhparent = p.oid
)
SELECT c.oid::int8 AS oid, min(p.root::int8) AS root, n.nspname AS schema, c.relname AS name
  FROM parts p JOIN pg_catalog.pg_class c ON c.oid = p.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s AND NOT a.attisdropped
 WHERE c.relkind = 'r'
 GROUP BY c.oid, n.nspname, c.relname ORDER BY n.nspname, c.relname

-- references --
SELECT DISTINCT conrelid::int8 AS child, confrelid::int8 AS parent FROM pg_catalog.pg_constraint WHERE contype = 'f'

-- names --
SELECT c.oid::int8 AS oid, n.nspname AS schema, c.relname AS name
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY (%s::oid[]) ORDER BY 2, 3

-- superuser --
SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user

-- clear_statistics --
WITH extended AS (
  DELETE FROM pg_catalog.pg_statistic_ext_data
   WHERE stxoid IN (SELECT oid FROM pg_catalog.pg_statistic_ext WHERE stxrelid = %(oid)s::oid)
)
DELETE FROM pg_catalog.pg_statistic
 WHERE starelid = %(oid)s::oid
    OR starelid IN (SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid = %(oid)s::oid)

-- clear_statistics_18 --
-- For who is no superuser. It can't clear extended statistics.
SELECT pg_catalog.pg_clear_attribute_stats(n.nspname::text, c.relname::text, a.attname, inherited)
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  CROSS JOIN (VALUES (false), (true)) AS kinds (inherited)
 WHERE (c.oid = %(oid)s::oid AND (inherited OR c.relkind <> 'p'))
    OR (NOT inherited AND c.relkind = 'i'
        AND c.oid IN (SELECT indexrelid FROM pg_catalog.pg_index WHERE indrelid = %(oid)s::oid))
