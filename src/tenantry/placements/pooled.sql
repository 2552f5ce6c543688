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
SELECT n.nspname AS schema, c.relname AS name
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.oid = ANY (%s::oid[]) ORDER BY 1, 2
