-- Physical standbys of shards, where reads may go, and how old what a plan's tenants read there may be.
CREATE TABLE replicas (
  shard      text NOT NULL REFERENCES shards ON DELETE CASCADE,
  name       text NOT NULL,
  dsn        text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (shard, name)
);
GRANT SELECT ON replicas TO tenantry_library;
CREATE TRIGGER announce AFTER INSERT OR UPDATE OR DELETE ON replicas
  FOR EACH STATEMENT EXECUTE FUNCTION announce_fleet();

ALTER TABLE plans ADD COLUMN replica_seconds int NOT NULL DEFAULT 0 CHECK (replica_seconds >= 0);
