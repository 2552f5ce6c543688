-- What an application's process may read, and how it hears of changes.
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tenantry_library') THEN
    CREATE ROLE tenantry_library NOLOGIN;
  END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL;
END $$;

CREATE VIEW library_shards AS
  SELECT s.name, s.dsn, s.state, s.binding, s.dedicated, s.created_at, c.role, c.password
    FROM shards s LEFT JOIN credentials c ON c.shard = s.name AND c.role = 'tenantry_app';
CREATE VIEW library_keys AS
  SELECT kid, key, state, not_after FROM signing_keys WHERE state = 'active';
CREATE VIEW library_tenants AS
  SELECT t.id, t.key, t.slug, t.name, t.plan, t.state, t.created_at,
         s.shard, s.database, s.schema, s.isolation, p.epoch
    FROM tenants t LEFT JOIN placements p ON p.tenant = t.id LEFT JOIN spaces s ON s.id = p.space;

DO $$ BEGIN
  EXECUTE format('GRANT USAGE ON SCHEMA %I TO tenantry_library', current_schema());
END $$;
GRANT SELECT ON house, plans, domains, library_shards, library_keys, library_tenants TO tenantry_library;

-- Payloads name what changed, never its content: '<kind> <id>', or '*' for more than a hundred rows at once.
CREATE FUNCTION announce_tenants() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE ids uuid[];
BEGIN
  IF TG_TABLE_NAME = 'tenants' THEN
    SELECT array_agg(id) INTO ids FROM (SELECT id FROM changed LIMIT 101) c;
  ELSE
    SELECT array_agg(tenant) INTO ids FROM (SELECT tenant FROM changed LIMIT 101) c;
  END IF;
  IF cardinality(ids) > 100 THEN
    PERFORM pg_notify('tenantry', '*');
  ELSE
    PERFORM pg_notify('tenantry', 'tenant ' || id) FROM unnest(ids) AS id;
  END IF;
  RETURN NULL;
END $$;
CREATE FUNCTION announce_new() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('tenantry', 'new');
  RETURN NULL;
END $$;
CREATE FUNCTION announce_fleet() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify('tenantry', 'fleet');
  RETURN NULL;
END $$;

CREATE TRIGGER announce_update AFTER UPDATE ON tenants
  REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION announce_tenants();
CREATE TRIGGER announce_insert AFTER INSERT ON tenants FOR EACH STATEMENT EXECUTE FUNCTION announce_new();
CREATE TRIGGER announce_delete AFTER DELETE ON tenants
  REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION announce_tenants();
CREATE TRIGGER announce_update AFTER UPDATE ON placements
  REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION announce_tenants();
CREATE TRIGGER announce_delete AFTER DELETE ON placements
  REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION announce_tenants();
CREATE TRIGGER announce_insert AFTER INSERT ON domains FOR EACH STATEMENT EXECUTE FUNCTION announce_new();
CREATE TRIGGER announce_update AFTER UPDATE ON domains
  REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION announce_tenants();
CREATE TRIGGER announce_delete AFTER DELETE ON domains
  REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION announce_tenants();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON plans
  FOR EACH STATEMENT EXECUTE FUNCTION announce_fleet();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON shards
  FOR EACH STATEMENT EXECUTE FUNCTION announce_fleet();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON credentials
  FOR EACH STATEMENT EXECUTE FUNCTION announce_fleet();
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON signing_keys
  FOR EACH STATEMENT EXECUTE FUNCTION announce_fleet();
