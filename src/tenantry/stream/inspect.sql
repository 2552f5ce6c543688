-- What is read to stream a tenant's rows out of a schema, or into one. The search_path is the schema, so that the names
-- of types say where they are only if they are elsewhere.

-- tables --
-- The topmost tables; partitions belong to theirs. What COPY sends in binary form must mean the same in another
-- database: not so for types that hold numbers of types, tables and roles.
SELECT c.oid::int8 AS oid, c.relname AS name, c.relkind AS kind, c.relpersistence AS persistence,
       coalesce(bool_or(a.attname = %(column)s), false) AS walled,
       jsonb_agg(jsonb_build_object(
         'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'generated', a.attgenerated <> '',
         'always', a.attidentity = 'a',
         'binary', y.typtype = 'e' OR (y.typtype IN ('b', 'r', 'm') AND y.oid < 16384 AND y.typsend <> 0
                                       AND y.typname !~ '^_?(reg|aclitem|pg_)')
       ) ORDER BY a.attnum) FILTER (WHERE a.attnum IS NOT NULL) AS columns
  FROM pg_catalog.pg_class c
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_type y ON y.oid = CASE t.typtype WHEN 'd' THEN (
         WITH RECURSIVE base AS (
           SELECT t.oid, t.typbasetype
            UNION ALL
           SELECT b.oid, b.typbasetype FROM base JOIN pg_catalog.pg_type b ON b.oid = base.typbasetype
         ) SELECT base.oid FROM base WHERE base.typbasetype = 0) ELSE t.oid END
 WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                    WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
 GROUP BY c.oid ORDER BY c.relname

-- identities --
-- How a changed row is recognised, for each table that stores rows. Where that is the whole row, a key is looked for.
WITH stored AS (
  SELECT c.oid AS root, p.relid AS oid FROM pg_catalog.pg_class c, pg_catalog.pg_partition_tree(c.oid) p
   WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind = 'p' AND NOT c.relispartition AND p.isleaf
   UNION ALL
  SELECT c.oid, c.oid FROM pg_catalog.pg_class c
   WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind = 'r' AND NOT c.relispartition
)
SELECT s.root::int8 AS root, s.oid::regclass::text AS name, c.relreplident AS identity, k.name AS index, k.columns
  FROM stored s JOIN pg_catalog.pg_class c ON c.oid = s.oid
  LEFT JOIN LATERAL (
    SELECT x.relname AS name,
           ARRAY (SELECT a.attname::text FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS u (number, position)
                    JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.number
                   WHERE u.position <= i.indnkeyatts ORDER BY u.position) AS columns
      FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
     WHERE i.indrelid = s.oid AND i.indisvalid AND CASE c.relreplident
             WHEN 'd' THEN i.indisprimary
             WHEN 'i' THEN i.indisreplident
             WHEN 'f' THEN i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
                           AND NOT EXISTS (SELECT FROM unnest(i.indkey::int2[]) AS u (number)
                                             JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid
                                                  AND a.attnum = u.number AND NOT a.attnotnull)
             ELSE false END
     ORDER BY i.indisprimary DESC, i.indnkeyatts, x.relname LIMIT 1
  ) k ON true
 ORDER BY 2

-- triggers --
-- Triggers that fire even for a stream.
SELECT c.relname AS table, t.tgname AS name FROM pg_catalog.pg_trigger t JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid
 WHERE c.relnamespace = %(schema)s::regnamespace AND t.tgenabled IN ('A', 'R') AND NOT t.tgisinternal ORDER BY 1, 2

-- sequences --
SELECT c.relname AS name, s.seqincrement AS increment, s.seqmax AS max, s.seqmin AS min, s.seqcache AS cache
  FROM pg_catalog.pg_sequence s JOIN pg_catalog.pg_class c ON c.oid = s.seqrelid
 WHERE c.relnamespace = %(schema)s::regnamespace ORDER BY 1
