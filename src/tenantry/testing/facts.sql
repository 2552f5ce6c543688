-- What an application's role can reach in a database: read by a superuser.

-- relations --
-- kind: r and p tables, v views, m materialized views, f foreign tables. In the application's schemas all of them, in
-- others what its role has a right to.
SELECT c.oid, n.nspname AS schema, c.relname AS name, c.relkind::text AS kind,
       EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid) AS child,
       EXISTS (SELECT FROM pg_catalog.pg_attribute a
                WHERE a.attrelid = c.oid AND a.attname = %(column)s AND NOT a.attisdropped) AS has_tenant,
       has_any_column_privilege('tenantry_app', c.oid, 'SELECT') AS readable,
       has_any_column_privilege('tenantry_app', c.oid, 'INSERT, UPDATE')
         OR has_table_privilege('tenantry_app', c.oid, 'DELETE, TRUNCATE') AS writable,
       ARRAY (SELECT a.attname FROM pg_catalog.pg_index x
                CROSS JOIN LATERAL unnest(x.indkey) WITH ORDINALITY AS k (number, place)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.number
               WHERE x.indrelid = c.oid AND x.indisprimary ORDER BY k.place)::text[] AS primary_key
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
   AND (n.nspname = ANY (%(schemas)s)
        OR n.nspname !~ '^(pg_|information_schema$|tenantry$|tenantry_priv$)'
           AND n.nspname <> ALL (%(homes)s) AND has_schema_privilege('tenantry_app', n.oid, 'USAGE')
           AND has_any_column_privilege('tenantry_app', c.oid, 'SELECT, INSERT, UPDATE'))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                    WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
 ORDER BY n.nspname, c.relname

-- columns --
SELECT a.attrelid AS relation, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
       coalesce(b.typname, y.typname) AS base, coalesce(b.typtype, y.typtype)::text AS kind,
       coalesce(b.typcategory, y.typcategory)::text AS category,
       coalesce(e.typcategory, ' ')::text AS element,
       CASE WHEN coalesce(b.typname, y.typname) IN ('varchar', 'bpchar')
            THEN nullif(greatest(a.atttypmod, y.typtypmod), -1) - 4 END AS length,
       a.attnotnull OR y.typnotnull AS not_null, a.atthasdef OR y.typdefault IS NOT NULL AS has_default,
       a.attidentity <> '' AS identity, a.attgenerated <> '' AS generated,
       coalesce((SELECT array_agg(l.enumlabel::text ORDER BY l.enumsortorder) FROM pg_catalog.pg_enum l
                  WHERE l.enumtypid = coalesce(b.oid, y.oid)), '{}') AS labels,
       CASE WHEN y.typtype = 'd' THEN y.typname END AS domain
  FROM pg_catalog.pg_attribute a
  JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_type b ON b.oid = y.typbasetype
  LEFT JOIN pg_catalog.pg_type e ON e.oid = nullif(coalesce(b.typelem, y.typelem), 0)
 WHERE a.attrelid = ANY (%(relations)s) AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum

-- checks --
SELECT k.conrelid AS relation, k.conname AS name, pg_get_constraintdef(k.oid) AS definition, y.typname AS domain,
       ARRAY (SELECT a.attname FROM pg_catalog.pg_attribute a
               WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey) ORDER BY a.attnum)::text[] AS columns
  FROM pg_catalog.pg_constraint k LEFT JOIN pg_catalog.pg_type y ON y.oid = k.contypid
 WHERE k.contype = 'c' AND (k.conrelid = ANY (%(relations)s) OR k.contypid <> 0)

-- references --
SELECT k.conrelid AS relation, k.confrelid AS target, k.conname AS name,
       ARRAY (SELECT a.attname FROM unnest(k.conkey) WITH ORDINALITY AS u (number, place)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = u.number
               ORDER BY u.place)::text[] AS columns,
       ARRAY (SELECT a.attname FROM unnest(k.confkey) WITH ORDINALITY AS u (number, place)
                JOIN pg_catalog.pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = u.number
               ORDER BY u.place)::text[] AS targets
  FROM pg_catalog.pg_constraint k
 WHERE k.contype = 'f' AND k.conparentid = 0 AND k.conrelid = ANY (%(relations)s)
 ORDER BY k.conrelid, k.conname

-- functions --
-- Those that may see more than their caller, and those that can be called without knowing anything.
SELECT n.nspname AS schema, p.proname AS name, p.oid::regprocedure::text AS signature,
       p.prosecdef AS definer, r.rolname AS owner, r.rolsuper OR r.rolbypassrls AS bypasses,
       p.pronargs - p.pronargdefaults AS required,
       ARRAY (SELECT format_type(t.type, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY AS t (type, place)
               ORDER BY t.place)::text[] AS arguments
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_roles r ON r.oid = p.proowner
 WHERE p.prokind = 'f' AND p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
   AND (p.prosecdef OR p.pronargs = p.pronargdefaults)
   AND n.nspname !~ '^(pg_|information_schema$|tenantry$|tenantry_priv$)'
   AND (n.nspname = ANY (%(schemas)s) OR n.nspname <> ALL (%(homes)s))
   AND has_schema_privilege('tenantry_app', n.oid, 'USAGE')
   AND has_function_privilege('tenantry_app', p.oid, 'EXECUTE')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                    WHERE e.classid = 'pg_catalog.pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
 ORDER BY 1, 2, 3

-- open_sequences --
SELECT c.oid::regclass::text AS name FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY (%(schemas)s)
   AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege('tenantry_app', c.oid, 'UPDATE') ELSE false END
