-- What looks like a hole and is none.

-- invoker_function --
CREATE FUNCTION x() RETURNS int LANGUAGE sql RETURN 1;
-- undo
DROP FUNCTION x();

-- definer_function_of_the_owner --
CREATE FUNCTION x() RETURNS int LANGUAGE sql SECURITY DEFINER SET search_path = app, pg_temp RETURN 1;
ALTER FUNCTION x() OWNER TO tenantry_owner;
-- undo
DROP FUNCTION x();

-- table_that_nobody_reaches --
CREATE SCHEMA other;
CREATE TABLE other.x (a int);
GRANT SELECT ON other.x TO PUBLIC;
-- undo
DROP SCHEMA other CASCADE;

-- table_of_a_migration_tool --
CREATE TABLE alembic_version (version_num text);
-- undo
DROP TABLE alembic_version;

-- foreign_key_to_a_shared_table --
ALTER TABLE customers ADD CONSTRAINT c FOREIGN KEY (country) REFERENCES countries;
-- undo
ALTER TABLE customers DROP CONSTRAINT c;

-- restrictive_policy_after_ours --
CREATE POLICY unhidden ON orders AS RESTRICTIVE USING (note IS NOT NULL);
-- undo
DROP POLICY unhidden ON orders;

-- permissive_policy --
CREATE POLICY hidden ON orders USING (note IS NOT NULL);
-- undo
DROP POLICY hidden ON orders;
