-- What the doctor asks. Names of the catalog are found by the connection's search path.

-- migrations --
SELECT number, name, checksum FROM tenantry_catalog.tenantry_migrations ORDER BY number

-- login --
SELECT current_user AS name, rolsuper AS superuser, rolbypassrls AS bypassrls, pg_backend_pid() AS pid,
       pg_is_in_recovery() AS standby
  FROM pg_catalog.pg_roles WHERE rolname = current_user

-- writable --
SELECT c.relname AS name FROM pg_catalog.pg_class c
 WHERE c.relnamespace = to_regnamespace('tenantry_catalog') AND c.relkind IN ('r', 'v')
   AND has_table_privilege(c.oid, 'INSERT, UPDATE, DELETE')
 ORDER BY 1

-- settings --
-- What sessions begin with; of what is set for the application's role, that. Our own session logs less than others.
SELECT p.name, coalesce((SELECT split_part(o.setting, '=', 2)
                           FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.oid = s.setrole,
                                unnest(s.setconfig) AS o (setting)
                          WHERE r.rolname = 'tenantry_app' AND s.setdatabase = 0
                            AND split_part(o.setting, '=', 1) = p.name), p.reset_val) AS setting
  FROM pg_catalog.pg_settings p
 WHERE p.name IN ('max_prepared_transactions', 'log_parameter_max_length', 'log_parameter_max_length_on_error',
                'wal_level', 'max_connections', 'superuser_reserved_connections')

-- logged --
SELECT current_setting('log_parameter_max_length') <> '0' AS logged

-- clock --
SELECT extract(epoch FROM clock_timestamp())::float8 AS seconds

-- keys --
SELECT kid FROM tenantry_priv.signing_keys WHERE now() < not_after

-- sent --
SELECT pg_catalog.pg_current_wal_insert_lsn()::text AS lsn,
       (SELECT count(*) FROM pg_catalog.pg_stat_replication WHERE state = 'streaming')::int AS streams

-- replayed --
SELECT pg_is_in_recovery() AS standby,
       CASE WHEN pg_is_in_recovery() THEN pg_wal_lsn_diff(%s::pg_lsn, pg_last_wal_replay_lsn())::float8::bigint END AS behind
