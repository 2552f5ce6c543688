-- What stands in a server and a database, as far as the perimeter cares. $schemas are the application's schemas.

-- roles --
SELECT rolname AS name, rolcanlogin AS login, rolsuper AS superuser, rolbypassrls AS bypassrls,
       rolcreaterole AS createrole, rolcreatedb AS createdb, rolreplication AS replication, rolinherit AS inherit
  FROM pg_catalog.pg_roles WHERE rolname LIKE 'tenantry\_%'

-- memberships --
-- The options of a membership are columns since PostgreSQL 16; before, every member may do all.
SELECT m.rolname AS member, r.rolname AS role, pg_get_userbyid(a.grantor)::text AS grantor,
       coalesce((to_jsonb(a) ->> 'set_option')::boolean AND (to_jsonb(a) ->> 'inherit_option')::boolean, true) AS acts
  FROM pg_catalog.pg_auth_members a
  JOIN pg_catalog.pg_roles m ON m.oid = a.member JOIN pg_catalog.pg_roles r ON r.oid = a.roleid
 WHERE m.rolname LIKE 'tenantry\_%' OR r.rolname LIKE 'tenantry\_%'

-- role_settings --
SELECT coalesce(r.rolname, '') AS role, coalesce(d.datname, '') AS database, s.setconfig AS settings
  FROM pg_catalog.pg_db_role_setting s
  LEFT JOIN pg_catalog.pg_roles r ON r.oid = s.setrole LEFT JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
 WHERE (r.rolname LIKE 'tenantry\_%' OR r.rolname IS NULL)
   AND (d.datname = current_database() OR d.datname IS NULL)

-- parameter_grants --
-- Who may set parameters that are not for everybody: the seal's, and any that the application's role was given.
SELECT p.parname AS parameter, CASE g.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(g.grantee) END AS grantee,
       g.privilege_type AS privilege
  FROM pg_catalog.pg_parameter_acl p, aclexplode(p.paracl) g
 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = g.grantee AND r.rolsuper)
   AND (p.parname = 'backtrace_functions' OR pg_get_userbyid(g.grantee) = 'tenantry_app')
 ORDER BY 1, 2, 3

-- server --
SELECT current_setting('server_version_num')::int AS version, current_database() AS database,
       current_user::text AS role,
       (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user) AS superuser,
       current_setting('max_prepared_transactions')::int AS prepared_transactions,
       current_setting('log_parameter_max_length')::int AS log_parameters,
       current_setting('log_parameter_max_length_on_error')::int AS log_parameters_on_error

-- owners --
-- Who owns the database and the schemas: an owner may do anything there.
SELECT 'database' AS kind, d.datname AS name, pg_get_userbyid(d.datdba)::text AS owner
  FROM pg_catalog.pg_database d WHERE d.datname = current_database()
 UNION ALL
SELECT 'schema', n.nspname, pg_get_userbyid(n.nspowner)::text
  FROM pg_catalog.pg_namespace n WHERE n.nspname = ANY (%(schemas)s) OR n.nspname IN ('tenantry', 'tenantry_priv')
 ORDER BY 1, 2

-- database_grants --
SELECT CASE g.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(g.grantee) END AS grantee, g.privilege_type AS privilege
  FROM pg_catalog.pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) g
 WHERE d.datname = current_database() AND g.grantee <> d.datdba

-- schema_grants --
SELECT n.nspname AS schema, CASE g.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(g.grantee) END AS grantee,
       g.privilege_type AS privilege
  FROM pg_catalog.pg_namespace n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) g
 WHERE (n.nspname = ANY (%(schemas)s) OR n.nspname IN ('public', 'tenantry', 'tenantry_priv'))
   AND (g.grantee <> n.nspowner OR n.nspname = ANY (%(schemas)s))

-- binder_functions --
SELECT n.nspname || '.' || p.proname AS name, oidvectortypes(p.proargtypes) AS arguments, r.rolname AS owner,
       md5(pg_get_functiondef(p.oid)) AS body,
       coalesce(obj_description(p.oid, 'pg_proc'), '') AS comment,
       ARRAY (SELECT CASE g.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(g.grantee) END
                FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
               WHERE g.grantee <> p.proowner ORDER BY 1) AS executors
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_roles r ON r.oid = p.proowner
 WHERE n.nspname IN ('tenantry', 'tenantry_priv') AND p.prokind = 'f'

-- binder_operators --
SELECT o.oprname AS name, format_type(o.oprleft, NULL) AS left, format_type(o.oprright, NULL) AS right,
       o.oprcode::regproc::text AS function, o.oprrest::regproc::text AS restrict, pg_get_userbyid(o.oprowner)::text AS owner
  FROM pg_catalog.pg_operator o JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
 WHERE n.nspname = 'tenantry' AND o.oprcode <> 0

-- binder_tables --
SELECT n.nspname || '.' || c.relname AS name, r.rolname AS owner,
       ARRAY (SELECT CASE g.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(g.grantee) END || ' ' || g.privilege_type
                FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) g
               WHERE g.grantee <> c.relowner
               UNION
              SELECT CASE g.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(g.grantee) END || ' column ' || g.privilege_type
                FROM pg_catalog.pg_attribute b, aclexplode(b.attacl) g
               WHERE b.attrelid = c.oid AND b.attacl IS NOT NULL AND g.grantee <> c.relowner
               ORDER BY 1) AS grants
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
 WHERE n.nspname IN ('tenantry', 'tenantry_priv') AND c.relkind = 'r'

-- open_functions --
SELECT p.oid::regprocedure::text AS name
  FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
 WHERE n.nspname = 'pg_catalog'
   AND (p.proname = ANY (%(names)s) OR p.proname ~ '^(lo_|lo(creat|read|write)|lowrite)'
        OR p.proname ~ '^pg_(try_)?advisory_(xact_)?lock' OR p.proname ~ '^pg_stat_get_xact_'
        OR p.proname ~ '^pg_stat_get_backend_')
   AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g WHERE g.grantee = 0)
 ORDER BY 1

-- binder_calls --
-- Functions that are closed to everybody and that the binder needs.
SELECT p.oid::regprocedure::text AS name
  FROM pg_catalog.pg_proc p, aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
 WHERE p.pronamespace = 'pg_catalog'::regnamespace AND pg_get_userbyid(g.grantee) = 'tenantry_sec'

-- open_views --
SELECT c.oid::regclass::text AS name
  FROM pg_catalog.pg_class c
 WHERE (c.oid IN ('pg_catalog.pg_largeobject_metadata'::regclass, 'pg_catalog.pg_db_role_setting'::regclass,
                  'pg_catalog.pg_stat_activity'::regclass, 'pg_catalog.pg_locks'::regclass)
        OR c.relname IN ('pg_stat_statements', 'pg_stat_statements_info'))
   AND EXISTS (SELECT FROM aclexplode(coalesce(c.relacl, acldefault('r', c.relowner))) g WHERE g.grantee = 0)
 ORDER BY 1

-- keys --
SELECT count(*) AS signing, (SELECT count(*) FROM tenantry_priv.seal_key) AS seal FROM tenantry_priv.signing_keys

-- relations --
SELECT n.nspname AS schema, c.relname AS name, c.relkind AS kind, r.rolname AS owner,
       c.relrowsecurity AS rls, c.relforcerowsecurity AS forced,
       c.relispartition OR EXISTS (SELECT FROM pg_catalog.pg_inherits i WHERE i.inhrelid = c.oid) AS child,
       coalesce('security_invoker=true' = ANY (c.reloptions) OR 'security_invoker=on' = ANY (c.reloptions), false)
         AS invoker,
       EXISTS (SELECT FROM pg_catalog.pg_depend e
                WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND c.relkind = 'S'
                  AND e.refclassid = 'pg_catalog.pg_class'::regclass AND e.deptype IN ('a', 'i')) AS of_a_column,
       a.attnum IS NOT NULL AS has_tenant, coalesce(a.attnotnull, false) AS tenant_not_null,
       format_type(coalesce(nullif(y.typbasetype, 0), y.oid), NULL) AS tenant_type,
       coalesce(l.collisdeterministic, true) AS tenant_exact,
       pg_get_expr(d.adbin, d.adrelid) AS tenant_default,
       ARRAY (SELECT CASE g.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(g.grantee) END || ' ' || g.privilege_type
                FROM aclexplode(x.acl) g WHERE g.grantee <> c.relowner
               UNION
              SELECT CASE g.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(g.grantee) END || ' option ' || g.privilege_type
                FROM aclexplode(x.acl) g WHERE g.grantee <> c.relowner AND g.is_grantable
               UNION
              SELECT CASE g.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(g.grantee) END || ' column ' || g.privilege_type
                FROM pg_catalog.pg_attribute b, aclexplode(b.attacl) g
               WHERE b.attrelid = c.oid AND b.attacl IS NOT NULL AND g.grantee <> c.relowner
               ORDER BY 1) AS grants
  FROM pg_catalog.pg_class c
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_roles r ON r.oid = c.relowner
  CROSS JOIN LATERAL (
    SELECT coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", c.relowner))) x (acl)
  LEFT JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s AND NOT a.attisdropped
       AND a.attnum > 0
  LEFT JOIN pg_catalog.pg_type y ON y.oid = a.atttypid
  LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
  LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
 WHERE n.nspname = ANY (%(schemas)s) AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                    WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
 ORDER BY 1, 2

-- strays --
-- Relations in other schemas that the application's role can reach.
SELECT n.nspname AS schema, c.relname AS name, c.relkind AS kind,
       c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (
         SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenantry_isolation') AS walled,
       coalesce('security_invoker=true' = ANY (c.reloptions) OR 'security_invoker=on' = ANY (c.reloptions), false)
         AS invoker,
       ARRAY (SELECT DISTINCT g.privilege_type FROM aclexplode(c.relacl) g
               WHERE g.grantee = 0 OR pg_get_userbyid(g.grantee) = 'tenantry_app' ORDER BY 1) AS privileges
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relacl IS NOT NULL
   AND n.nspname <> ALL (%(schemas)s)
   AND n.nspname !~ '^(pg_|information_schema$|tenantry$|tenantry_priv$)'
   AND EXISTS (SELECT FROM aclexplode(n.nspacl) g
                WHERE g.privilege_type = 'USAGE' AND (g.grantee = 0 OR pg_get_userbyid(g.grantee) = 'tenantry_app'))
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                    WHERE e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = c.oid AND e.deptype = 'e')
 ORDER BY 1, 2

-- policies --
SELECT n.nspname AS schema, c.relname AS table, p.polname AS name, p.polpermissive AS permissive, p.polcmd AS command,
       p.polroles = '{0}' AS for_all, pg_get_expr(p.polqual, p.polrelid) AS using,
       pg_get_expr(p.polwithcheck, p.polrelid) AS check
  FROM pg_catalog.pg_policy p
  JOIN pg_catalog.pg_class c ON c.oid = p.polrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE n.nspname = ANY (%(schemas)s)

-- indexes --
SELECT n.nspname AS schema, c.relname AS table, x.relname AS name, i.indisunique AS unique, i.indisprimary AS primary,
       i.indisexclusion AS exclusion,
       -- Columns after the key ones are only carried along (INCLUDE): they make nothing unique.
       a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1]) AS has_tenant, i.indkey[0] = a.attnum AS leads
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attname = %(column)s AND NOT a.attisdropped
 WHERE n.nspname = ANY (%(schemas)s) AND c.relkind IN ('r', 'p')
 ORDER BY 1, 2, 3

-- foreign_keys --
SELECT n.nspname AS schema, c.relname AS table, k.conname AS name, f.relname AS target,
       EXISTS (SELECT FROM unnest(k.conkey, k.confkey) AS u (here, there)
                JOIN pg_catalog.pg_attribute h ON h.attrelid = k.conrelid AND h.attnum = u.here AND h.attname = %(column)s
                JOIN pg_catalog.pg_attribute t ON t.attrelid = k.confrelid AND t.attnum = u.there AND t.attname = %(column)s)
         AS has_tenant
  FROM pg_catalog.pg_constraint k
  JOIN pg_catalog.pg_class c ON c.oid = k.conrelid JOIN pg_catalog.pg_class f ON f.oid = k.confrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
 WHERE k.contype = 'f' AND n.nspname = ANY (%(schemas)s)
   AND EXISTS (SELECT FROM pg_catalog.pg_attribute t
                WHERE t.attrelid = k.confrelid AND t.attname = %(column)s AND NOT t.attisdropped)
 ORDER BY 1, 2, 3

-- definer_functions --
SELECT p.oid::regprocedure::text AS name, r.rolname AS owner, r.rolsuper OR r.rolbypassrls AS bypasses,
       coalesce(p.proconfig::text ~ 'search_path', false) AS has_path
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_roles r ON r.oid = p.proowner
 WHERE p.prosecdef AND n.nspname = ANY (%(schemas)s) AND r.rolname <> 'tenantry_seek'
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend e
                    WHERE e.classid = 'pg_catalog.pg_proc'::regclass AND e.objid = p.oid AND e.deptype = 'e')
 ORDER BY 1

-- asking --
-- The indexes that ask for seeks.
SELECT x.oid
  FROM pg_catalog.pg_class x
 WHERE x.relkind IN ('i', 'I') AND x.relname LIKE '%%\_seek'
   AND x.relnamespace = ANY (ARRAY (SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = ANY (%(schemas)s)))

-- searches --
-- The columns of these indexes, with each operator that an index serves and that is not leakproof.
SELECT n.nspname AS schema, c.relname AS table, c.relkind AS kind, x.relname AS index, m.amname AS method,
       i.indkey[0] = t.attnum AS leads, pg_get_expr(i.indpred, i.indrelid) AS predicate,
       k.nth, a.attname AS column, y.typname AS type, z.nspname AS type_schema, format_type(y.oid, NULL) AS type_name,
       y.typtype = 'e' AS enum, format_type(nullif(y.typelem, 0), NULL) AS element,
       o.oprname AS operator, w.nspname AS operator_schema, p.proname AS function,
       (SELECT e.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
         WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e') AS extension,
       EXISTS (SELECT FROM pg_catalog.pg_policy l WHERE l.polrelid = c.oid
                  AND l.polname NOT IN ('tenantry_isolation', 'tenantry_access')) AS policies
  FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid JOIN pg_catalog.pg_am m ON m.oid = x.relam
  JOIN pg_catalog.pg_attribute t ON t.attrelid = c.oid AND t.attname = %(column)s AND NOT t.attisdropped
  CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) WITH ORDINALITY AS k (attnum, opclass, nth)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum AND a.attnum <> t.attnum
  JOIN pg_catalog.pg_type b ON b.oid = a.atttypid
  JOIN pg_catalog.pg_type y ON y.oid = coalesce(nullif(b.typbasetype, 0), b.oid)
  JOIN pg_catalog.pg_namespace z ON z.oid = y.typnamespace
  JOIN pg_catalog.pg_opclass f ON f.oid = k.opclass
  JOIN pg_catalog.pg_amop s ON s.amopfamily = f.opcfamily AND s.amoppurpose = 's' AND s.amoplefttype = f.opcintype
  JOIN pg_catalog.pg_operator o ON o.oid = s.amopopr JOIN pg_catalog.pg_namespace w ON w.oid = o.oprnamespace
  JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode AND NOT p.proleakproof
 WHERE i.indexrelid = ANY (%(indexes)s::oid[]) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
 ORDER BY 1, 2, 4, k.nth, p.proname

-- crowds --
SELECT schema, count(*) AS residents FROM tenantry.residents WHERE state <> 'moved' GROUP BY schema

-- seeks --
SELECT n.nspname AS schema, p.proname AS name, oidvectortypes(p.proargtypes) AS arguments, r.rolname AS owner,
       md5(pg_get_functiondef(p.oid)) AS body,
       coalesce(obj_description(p.oid, 'pg_proc'), '') AS comment,
       ARRAY (SELECT CASE g.grantee WHEN 0 THEN 'public' ELSE pg_get_userbyid(g.grantee) END
                FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) g
               WHERE g.grantee <> p.proowner ORDER BY 1) AS executors
  FROM pg_catalog.pg_proc p
  JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace JOIN pg_catalog.pg_roles r ON r.oid = p.proowner
 WHERE n.nspname = ANY (%(schemas)s) AND r.rolname = 'tenantry_seek' AND p.prokind = 'f'

-- seek_schemas --
SELECT n.nspname AS name
  FROM pg_catalog.pg_namespace n, aclexplode(n.nspacl) g
 WHERE pg_get_userbyid(g.grantee) = 'tenantry_seek' AND g.privilege_type = 'USAGE'
