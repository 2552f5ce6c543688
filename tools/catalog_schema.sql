-- What tools/catalog_schema.py asks a database about one of its schemas.

-- tables --
SELECT c.oid, c.relname AS name, c.relkind = 'v' AS is_view,
       CASE c.relkind WHEN 'v' THEN pg_get_viewdef(c.oid, true) END AS definition, c.reloptions AS options
  FROM pg_class c WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind IN ('r', 'v')
 ORDER BY c.relkind, c.oid

-- columns --
SELECT a.attrelid AS oid, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS required,
       a.attidentity <> '' AS is_identity, pg_get_expr(d.adbin, d.adrelid, true) AS "default"
  FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
 WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind IN ('r', 'v') AND a.attnum > 0 AND NOT a.attisdropped
 ORDER BY a.attrelid, a.attnum

-- constraints --
-- NOT NULL (contype 'n', from PostgreSQL 18 on) stands at the columns.
SELECT conrelid AS oid, conname AS name, pg_get_constraintdef(oid, true) AS definition
  FROM pg_constraint WHERE connamespace = %(schema)s::regnamespace AND contype <> 'n'
 ORDER BY conrelid, array_position('{p,u,c,f}'::"char"[], contype), conname

-- indexes --
SELECT i.indrelid AS oid, pg_get_indexdef(i.indexrelid, 0, true) AS definition
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
 WHERE c.relnamespace = %(schema)s::regnamespace AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = c.oid)
 ORDER BY c.oid

-- triggers --
SELECT t.tgrelid AS oid, pg_get_triggerdef(t.oid, true) AS definition
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
 WHERE c.relnamespace = %(schema)s::regnamespace AND NOT t.tgisinternal ORDER BY t.oid

-- sequences --
SELECT c.relname AS name FROM pg_class c
 WHERE c.relnamespace = %(schema)s::regnamespace AND c.relkind = 'S'
   AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'i' AND d.refobjsubid > 0)
 ORDER BY c.relname

-- functions --
SELECT pg_get_functiondef(oid) AS definition FROM pg_proc WHERE pronamespace = %(schema)s::regnamespace ORDER BY oid

-- grants --
SELECT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS role,
       a.privilege_type || x.columns AS privilege, x.what
  FROM (SELECT 'SCHEMA ' || nspname, '', nspacl, nspowner, 0::oid
          FROM pg_namespace WHERE oid = %(schema)s::regnamespace
        UNION ALL
        SELECT relname, '', relacl, relowner, oid FROM pg_class WHERE relnamespace = %(schema)s::regnamespace
        UNION ALL
        SELECT c.relname, ' (' || a.attname || ')', a.attacl, c.relowner, c.oid
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE c.relnamespace = %(schema)s::regnamespace
       ) x (what, columns, acl, owner, oid), aclexplode(x.acl) a
 WHERE a.grantee <> x.owner
 ORDER BY (SELECT relkind FROM pg_class k WHERE k.oid = x.oid) NULLS FIRST, x.oid, role, privilege

-- migrations --
SELECT number, name, checksum FROM tenantry_migrations ORDER BY number
