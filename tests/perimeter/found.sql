-- Holes that only the application can close. The first line of each says where the finding is, and a part of it.

-- nullable --
-- app.x: may be NULL
CREATE TABLE x (company_id bigint);
-- undo
DROP TABLE x;

-- other_type --
-- app.x: is numeric
CREATE TABLE x (company_id numeric NOT NULL);
-- undo
DROP TABLE x;

-- unclear_table --
-- app.x: has no column company_id
CREATE TABLE x (a int);
-- undo
DROP TABLE x;

-- materialized_view --
-- app.x: materialized
CREATE MATERIALIZED VIEW x AS SELECT 1;
-- undo
DROP MATERIALIZED VIEW x;

-- primary_key --
-- app.x: x_pkey is unique over all tenants
CREATE TABLE x (company_id bigint NOT NULL, id int PRIMARY KEY);
-- undo
DROP TABLE x;

-- unique_key --
-- app.customers: mail is unique over all tenants
ALTER TABLE customers ADD CONSTRAINT mail UNIQUE (email);
-- undo
ALTER TABLE customers DROP CONSTRAINT mail;

-- unique_key_that_only_includes_the_tenant --
-- app.customers: mail is unique over all tenants
CREATE UNIQUE INDEX mail ON customers (email) INCLUDE (company_id);
-- undo
DROP INDEX mail;

-- unique_expression --
-- app.customers: mail is unique over all tenants
CREATE UNIQUE INDEX mail ON customers (lower(email));
-- undo
DROP INDEX mail;

-- partial_unique_key --
-- app.customers: mail is unique over all tenants
CREATE UNIQUE INDEX mail ON customers (email) WHERE secret IS NOT NULL;
-- undo
DROP INDEX mail;

-- exclusion --
-- app.x: is unique over all tenants
CREATE TABLE x (company_id bigint NOT NULL, room int, EXCLUDE USING btree (room WITH =));
-- undo
DROP TABLE x;

-- index_of_others_first --
-- app.orders: does not begin with company_id
CREATE INDEX x ON orders (amount, company_id);
-- undo
DROP INDEX x;

-- foreign_key --
-- app.orders: ref ignores company_id
ALTER TABLE customers ADD CONSTRAINT one UNIQUE (id);
ALTER TABLE orders ADD CONSTRAINT ref FOREIGN KEY (customer) REFERENCES customers (id);
-- undo
ALTER TABLE orders DROP CONSTRAINT ref;
ALTER TABLE customers DROP CONSTRAINT one;

-- foreign_key_of_the_wrong_columns --
-- app.x: ignores company_id
CREATE TABLE x (company_id bigint NOT NULL, other bigint, id bigint, PRIMARY KEY (company_id, id), FOREIGN KEY (other,
  id) REFERENCES customers (company_id, id));
-- undo
DROP TABLE x;

-- definer_function --
-- app.x(): bypasses row security; it has no search_path
CREATE FUNCTION x() RETURNS bigint LANGUAGE sql SECURITY DEFINER RETURN 1;
-- undo
DROP FUNCTION x();

-- table_elsewhere --
-- other.x: outside of the wall
CREATE SCHEMA other;
GRANT USAGE ON SCHEMA other TO PUBLIC;
CREATE TABLE other.x (company_id bigint);
GRANT SELECT ON other.x TO tenantry_app;
-- undo
DROP SCHEMA other CASCADE;

-- view_elsewhere --
-- other.x: outside of the wall
CREATE SCHEMA other;
GRANT USAGE ON SCHEMA other TO tenantry_app;
CREATE VIEW other.x AS SELECT * FROM app.orders;
GRANT SELECT ON other.x TO PUBLIC;
-- undo
DROP SCHEMA other CASCADE;

-- restrictive_policy_before_ours --
-- app.orders: hidden is asked before tenantry_isolation
CREATE POLICY hidden ON orders AS RESTRICTIVE USING (note IS NOT NULL);
-- undo
DROP POLICY hidden ON orders;
