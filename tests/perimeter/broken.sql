-- Ways to break a wall. The first line of each says what the plan must name, and a part of why.

-- row_security_disabled --
-- app.orders: row security
ALTER TABLE orders DISABLE ROW LEVEL SECURITY;

-- row_security_not_forced --
-- app.orders: row security
ALTER TABLE orders NO FORCE ROW LEVEL SECURITY;

-- of_a_partition --
-- app.events_2025: row security
ALTER TABLE events_2025 DISABLE ROW LEVEL SECURITY;

-- of_a_child --
-- app.contracts: row security
ALTER TABLE contracts DISABLE ROW LEVEL SECURITY;

-- policy_dropped --
-- app.orders: tenantry_isolation
DROP POLICY tenantry_isolation ON orders;

-- policy_renamed --
-- app.orders: tenantry_isolation
ALTER POLICY tenantry_isolation ON orders RENAME TO mine;

-- policy_says_true --
-- app.orders: tenantry_isolation
ALTER POLICY tenantry_isolation ON orders USING (true);

-- policy_admits_unbound --
-- app.orders: tenantry_isolation
ALTER POLICY tenantry_isolation ON orders USING (company_id = (SELECT tenantry.current_tenant_v1()) OR company_id IS
  NULL);

-- check_says_true --
-- app.orders: isolation
ALTER POLICY tenantry_isolation ON orders WITH CHECK (true);

-- policy_for_one_role --
-- app.orders: isolation
ALTER POLICY tenantry_isolation ON orders TO tenantry_owner;

-- policy_for_one_command --
-- app.orders: tenantry_isolation
DROP POLICY tenantry_isolation ON orders;
CREATE POLICY tenantry_isolation ON orders AS RESTRICTIVE FOR SELECT USING (company_id = (SELECT
  tenantry.current_tenant_v1()));

-- policy_permissive --
-- app.orders: tenantry_isolation
DROP POLICY tenantry_isolation ON orders;
CREATE POLICY tenantry_isolation ON orders USING (company_id = (SELECT tenantry.current_tenant_v1()));

-- access_dropped --
-- app.orders: tenantry_access
DROP POLICY tenantry_access ON orders;

-- default_dropped --
-- app.orders: default
ALTER TABLE orders ALTER company_id DROP DEFAULT;

-- owner_changed --
-- app.orders: belongs to tenantry_app
ALTER TABLE orders OWNER TO tenantry_app;

-- granted_to_everybody --
-- app.orders: public has SELECT
GRANT SELECT ON orders TO PUBLIC;

-- truncate_granted --
-- app.orders: tenantry_app has TRUNCATE
GRANT TRUNCATE ON orders TO tenantry_app;

-- trigger_granted --
-- app.orders: tenantry_app has TRIGGER
GRANT TRIGGER ON orders TO tenantry_app;

-- references_granted --
-- app.orders: has REFERENCES
GRANT REFERENCES ON orders TO tenantry_app;

-- column_granted --
-- app.orders: column has REFERENCES
GRANT REFERENCES (note) ON orders TO tenantry_app;

-- column_select_granted --
-- app.orders: column has SELECT
GRANT SELECT (note) ON orders TO tenantry_app;

-- right_to_grant --
-- app.orders: option has SELECT
GRANT SELECT ON orders TO tenantry_app WITH GRANT OPTION;

-- write_for_operators --
-- app.orders: tenantry_operator has UPDATE
GRANT UPDATE ON orders TO tenantry_operator;

-- select_revoked --
-- app.orders: must have SELECT
REVOKE SELECT ON orders FROM tenantry_app;

-- partition_granted --
-- app.events_2025: has SELECT
GRANT SELECT ON events_2025 TO tenantry_app;

-- child_granted --
-- app.contracts: has SELECT
GRANT SELECT ON contracts TO tenantry_app;

-- shared_table_writable --
-- app.countries: has INSERT
GRANT INSERT ON countries TO tenantry_app;

-- unclear_table_granted --
-- app.audit_log: has SELECT
GRANT SELECT ON audit_log TO tenantry_app;

-- materialized_view_granted --
-- app.order_totals: has SELECT
GRANT SELECT ON order_totals TO tenantry_app;

-- view_of_its_owner --
-- app.paid_orders: owner's rights
ALTER VIEW paid_orders RESET (security_invoker);

-- view_writable --
-- app.paid_orders: has UPDATE
GRANT UPDATE ON paid_orders TO tenantry_app;

-- sequence_update --
-- app.orders_id_seq: has UPDATE
GRANT UPDATE ON SEQUENCE orders_id_seq TO tenantry_app;

-- sequence_usage --
-- app.orders_id_seq: must have
REVOKE USAGE ON SEQUENCE orders_id_seq FROM tenantry_app;

-- schema_create --
-- schema app: tenantry_app has CREATE
GRANT CREATE ON SCHEMA app TO tenantry_app;

-- schema_for_everybody --
-- schema app: public has USAGE
GRANT USAGE ON SCHEMA app TO PUBLIC;

-- public_schema --
-- schema public: public has CREATE
GRANT ALL ON SCHEMA public TO PUBLIC;

-- schema_owner --
-- schema app: belongs to tenantry_app
ALTER SCHEMA app OWNER TO tenantry_app;

-- binders_schema --
-- schema tenantry_priv: has USAGE
GRANT USAGE ON SCHEMA tenantry_priv TO tenantry_app;

-- binders_schema_create --
-- schema tenantry: has CREATE
GRANT CREATE ON SCHEMA tenantry TO tenantry_app;

-- binders_schema_owner --
-- schema tenantry: belongs to
ALTER SCHEMA tenantry OWNER TO tenantry_app;

-- signing_keys_granted --
-- tenantry_priv.signing_keys: tenantry_app has SELECT
GRANT SELECT ON tenantry_priv.signing_keys TO tenantry_app;

-- column_of_the_seal_key --
-- tenantry_priv.seal_key: public column has SELECT
GRANT SELECT (ipad) ON tenantry_priv.seal_key TO PUBLIC;

-- residents_granted --
-- tenantry.residents: public has SELECT
GRANT SELECT ON tenantry.residents TO PUBLIC;

-- residents_closed --
-- tenantry.residents: tables
REVOKE UPDATE ON tenantry.residents FROM tenantry_admin;

-- keys_owner --
-- tenantry_priv.signing_keys: tables
ALTER TABLE tenantry_priv.signing_keys OWNER TO tenantry_app;

-- function_body --
-- tenantry.current_tenant_v1(): differs
CREATE OR REPLACE FUNCTION tenantry.current_tenant_v1() RETURNS bigint LANGUAGE sql STABLE RETURN 7;

-- function_setting --
-- tenantry.bind_v1(text, boolean): differs
ALTER FUNCTION tenantry.bind_v1(text, boolean) SET work_mem = '1MB';

-- function_invoker --
-- tenantry.bind_v1(text, boolean): differs
ALTER FUNCTION tenantry.bind_v1(text, boolean) SECURITY INVOKER;

-- function_owner --
-- tenantry.bind_v1(text, boolean): belongs to
ALTER FUNCTION tenantry.bind_v1(text, boolean) OWNER TO postgres;

-- function_executor --
-- tenantry_priv.keep_keys_v1(text[]): tenantry_app may execute
GRANT EXECUTE ON FUNCTION tenantry_priv.keep_keys_v1(text[]) TO tenantry_app;

-- function_for_everybody --
-- tenantry_priv.seal_v1(text): public may execute
GRANT EXECUTE ON FUNCTION tenantry_priv.seal_v1(text) TO PUBLIC;

-- function_closed --
-- tenantry.bind_v1(text, boolean): can't be executed
REVOKE EXECUTE ON FUNCTION tenantry.bind_v1(text, boolean) FROM tenantry_app;

-- function_dropped --
-- tenantry.bind_v1(text, boolean): missing
DROP FUNCTION tenantry.bind_v1(text, boolean);

-- function_overloaded --
-- tenantry.bind_v1(name): not of this version
CREATE FUNCTION tenantry.bind_v1(name) RETURNS bigint LANGUAGE sql RETURN 1;

-- superuser --
-- tenantry_app: superuser
ALTER ROLE tenantry_app SUPERUSER;

-- bypassrls --
-- tenantry_app: bypassrls
ALTER ROLE tenantry_app BYPASSRLS;

-- createrole --
-- tenantry_app: createrole, createdb
ALTER ROLE tenantry_app CREATEROLE CREATEDB REPLICATION;

-- inherit --
-- tenantry_app: inherit
ALTER ROLE tenantry_app INHERIT;

-- login_of_the_owner --
-- tenantry_sec: login
ALTER ROLE tenantry_sec LOGIN;

-- membership_in_the_owner --
-- tenantry_app: can become tenantry_owner
GRANT tenantry_owner TO tenantry_app;

-- membership_in_a_role_of_postgresql --
-- tenantry_app: can become
GRANT pg_read_all_data TO tenantry_app;

-- members_of_the_binders_role --
-- tenantry_admin: can become tenantry_sec
GRANT tenantry_sec TO tenantry_admin;

-- setting_of_the_role --
-- tenantry_app: setting search_path
ALTER ROLE tenantry_app SET search_path = evil;

-- setting_in_the_database --
-- tenantry_app: setting my.loot
DO $$ BEGIN EXECUTE format('ALTER ROLE tenantry_app IN DATABASE %I SET "my.loot" = 1', current_database()); END $$;

-- seal_of_all_roles --
-- all roles: backtrace_functions
ALTER ROLE ALL SET backtrace_functions = tenantry_7;

-- seal_of_the_database --
-- all roles: backtrace_functions
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET backtrace_functions = tenantry_7', current_database()); END $$;

-- operators_write --
-- tenantry_operator: reads only
ALTER ROLE tenantry_operator RESET default_transaction_read_only;

-- seal_granted --
-- backtrace_functions: can forge
GRANT SET ON PARAMETER backtrace_functions TO tenantry_app;

-- seal_for_everybody --
-- backtrace_functions: can forge
GRANT SET ON PARAMETER backtrace_functions TO PUBLIC;

-- other_parameter --
-- session_replication_role: may change
GRANT SET ON PARAMETER session_replication_role TO tenantry_app;

-- database_temp --
-- database: has TEMPORARY
DO $$ BEGIN EXECUTE format('GRANT TEMP ON DATABASE %I TO tenantry_app', current_database()); END $$;

-- database_for_everybody --
-- database: everybody has CONNECT
DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO PUBLIC', current_database()); END $$;

-- database_closed --
-- database: must connect
DO $$ BEGIN EXECUTE format('REVOKE CONNECT ON DATABASE %I FROM tenantry_app', current_database()); END $$;

-- database_owner --
-- database: belongs to tenantry_app
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I OWNER TO tenantry_app', current_database()); END $$;

-- functions_of_postgresql --
-- 1 functions: act on
GRANT EXECUTE ON FUNCTION pg_terminate_backend TO PUBLIC;

-- view_of_postgresql --
-- pg_stat_activity: other sessions
GRANT SELECT ON pg_stat_activity TO PUBLIC;

-- binder_cant_look --
-- pg_prepared_statement(): the binder looks
REVOKE EXECUTE ON FUNCTION pg_prepared_statement() FROM tenantry_sec;

-- table_added --
-- app.added: policy
CREATE TABLE added (company_id bigint NOT NULL, PRIMARY KEY (company_id));

-- partition_added --
-- app.events_2027: row security
CREATE TABLE events_2027 PARTITION OF events FOR VALUES FROM ('2027-01-01') TO ('2028-01-01');

-- child_added --
-- app.letters: row security
CREATE TABLE letters () INHERITS (documents);

-- view_added --
-- app.mine: owner's rights
CREATE VIEW mine AS SELECT * FROM orders;

-- sequence_added --
-- app.counter: public has
CREATE SEQUENCE counter;
GRANT ALL ON SEQUENCE counter TO PUBLIC;

-- owned_sequence_named_before_its_table --
-- app.zzz: belongs to postgres
CREATE SEQUENCE aaa;
CREATE TABLE zzz (company_id bigint NOT NULL, id bigint DEFAULT nextval('aaa'), PRIMARY KEY (company_id, id));
ALTER SEQUENCE aaa OWNED BY zzz.id;

-- sequence_of_another_owner --
-- app.free: belongs to postgres
CREATE SEQUENCE free;

-- parameter_of_another_mode --
-- session_replication_role: tenantry_app may change it
GRANT SET, ALTER SYSTEM ON PARAMETER session_replication_role TO tenantry_app;

-- policy_without_its_guard --
-- app.orders: tenantry_isolation
ALTER POLICY tenantry_isolation ON orders USING (company_id = (SELECT tenantry.current_tenant_v1()));

-- guard_that_costs_something --
-- tenantry.same_v1(bigint, bigint): differs
ALTER FUNCTION tenantry.same_v1(bigint, bigint) COST 1;

-- guard_that_is_no_equality --
-- tenantry.same_v1(integer, bigint): differs
CREATE OR REPLACE FUNCTION tenantry.same_v1(integer, bigint) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS 'int48ge';

-- guard_overloaded --
-- tenantry.same_v1(numeric, bigint): not of this version
CREATE FUNCTION tenantry.same_v1(numeric, bigint) RETURNS boolean LANGUAGE sql RETURN true;

-- operator_that_estimates_otherwise --
-- tenantry.=== (bigint, bigint): estimates
ALTER OPERATOR tenantry.=== (bigint, bigint) SET (RESTRICT = NONE);

-- operator_of_another --
-- tenantry.=== (integer, bigint): belongs to
ALTER OPERATOR tenantry.=== (integer, bigint) OWNER TO tenantry_app;

-- operator_of_another_function --
-- tenantry.=== (smallint, bigint): is int28ne
DROP OPERATOR tenantry.=== (smallint, bigint);
CREATE OPERATOR tenantry.=== (LEFTARG = smallint, RIGHTARG = bigint, FUNCTION = int28ne);

-- operator_dropped_with_its_policies --
-- tenantry.=== (bigint, bigint): is missing
DROP OPERATOR tenantry.=== (bigint, bigint) CASCADE;
