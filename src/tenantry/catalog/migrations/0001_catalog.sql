-- What holds for the whole house; one row.
CREATE TABLE house (
  singleton     boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  id            uuid NOT NULL DEFAULT gen_random_uuid(),
  key_type      text NOT NULL CHECK (key_type IN ('bigint', 'uuid', 'text')),
  tenant_column text NOT NULL,
  app_schema    text NOT NULL
);

CREATE TABLE plans (
  name      text PRIMARY KEY,
  isolation text NOT NULL CHECK (isolation IN ('pooled', 'schema', 'database')),
  weight    int NOT NULL DEFAULT 1 CHECK (weight > 0),
  limits    jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(limits) = 'object'),
  features  jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(features) = 'object'),
  warm      int NOT NULL DEFAULT 0 CHECK (warm >= 0),
  grace     int NOT NULL DEFAULT 604800 CHECK (grace >= 0)
);

CREATE TABLE shards (
  name       text PRIMARY KEY,
  dsn        text NOT NULL,
  admin_dsn  text NOT NULL,
  state      text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'closed')),
  binding    text NOT NULL CHECK (binding IN ('sealed', 'signed')),
  dedicated  boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE credentials (
  shard    text NOT NULL REFERENCES shards ON DELETE CASCADE,
  role     text NOT NULL,
  password text NOT NULL,
  PRIMARY KEY (shard, role)
);

-- A space is a place that holds, or can hold, the application's tables: a pooled database, or a schema or database for
-- one tenant. Empty ones in state 'ready' are the warm pool; 'template' is what a shard's databases are copied from.
CREATE TABLE spaces (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  shard      text NOT NULL REFERENCES shards,
  database   text NOT NULL,
  schema     text NOT NULL,
  isolation  text NOT NULL CHECK (isolation IN ('pooled', 'schema', 'database')),
  state      text NOT NULL CHECK (state IN ('building', 'ready', 'occupied', 'template')),
  template   text,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (shard, database, schema)
);
CREATE INDEX spaces_ready ON spaces (isolation, shard, id) WHERE state = 'ready';

CREATE TABLE tenants (
  id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  key          text NOT NULL UNIQUE,
  slug         text NOT NULL,
  name         text NOT NULL,
  plan         text NOT NULL REFERENCES plans,
  state        text NOT NULL CHECK (state IN ('provisioning', 'active', 'suspended', 'deleting', 'deleted')),
  created_at   timestamptz NOT NULL DEFAULT now(),
  delete_after timestamptz
);
CREATE UNIQUE INDEX tenants_slug ON tenants (slug) WHERE state <> 'deleted';
CREATE INDEX tenants_plan ON tenants (plan);
CREATE SEQUENCE tenant_keys;

CREATE TABLE placements (
  tenant uuid PRIMARY KEY REFERENCES tenants,
  space  bigint NOT NULL REFERENCES spaces,
  epoch  bigint NOT NULL CHECK (epoch > 0),
  since  timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX placements_space ON placements (space);

CREATE TABLE domains (
  domain     text PRIMARY KEY,
  tenant     uuid NOT NULL REFERENCES tenants,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX domains_tenant ON domains (tenant);

-- 'pending' keys are being given to the databases, one 'active' key signs, 'retiring' keys still verify.
CREATE TABLE signing_keys (
  kid        text PRIMARY KEY CHECK (kid ~ '^[0-9a-z]{1,16}$'),
  key        bytea NOT NULL CHECK (length(key) BETWEEN 32 AND 64),
  state      text NOT NULL CHECK (state IN ('pending', 'active', 'retiring')),
  created_at timestamptz NOT NULL DEFAULT now(),
  not_after  timestamptz NOT NULL
);
CREATE UNIQUE INDEX signing_keys_active ON signing_keys (state) WHERE state = 'active';

CREATE TABLE audit_log (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at      timestamptz NOT NULL DEFAULT now(),
  actor   text NOT NULL,
  action  text NOT NULL,
  subject text NOT NULL,
  reason  text,
  detail  jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_subject ON audit_log (subject, at);

-- The log only grows.
CREATE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'tenantry: the audit log only grows';
END $$;
CREATE TRIGGER audit_log_grows BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse();
