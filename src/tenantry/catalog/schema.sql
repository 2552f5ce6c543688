-- The catalog as its migrations leave it, to be read in one piece.
-- Written by tools/catalog_schema.py from the migrations: change those instead.

CREATE SCHEMA tenantry_catalog;
SET search_path = tenantry_catalog, pg_temp;

CREATE SEQUENCE tenant_keys;

CREATE TABLE tenantry_migrations (
  number     integer     NOT NULL,
  name       text        NOT NULL,
  checksum   text        NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT tenantry_migrations_pkey PRIMARY KEY (number)
);

CREATE TABLE house (
  singleton     boolean NOT NULL DEFAULT true,
  id            uuid    NOT NULL DEFAULT gen_random_uuid(),
  key_type      text    NOT NULL,
  tenant_column text    NOT NULL,
  app_schema    text    NOT NULL,
  CONSTRAINT house_pkey PRIMARY KEY (singleton),
  CONSTRAINT house_key_type_check CHECK (key_type IN ('bigint', 'uuid', 'text')),
  CONSTRAINT house_singleton_check CHECK (singleton)
);

CREATE TABLE plans (
  name            text    NOT NULL,
  isolation       text    NOT NULL,
  weight          integer NOT NULL DEFAULT 1,
  limits          jsonb   NOT NULL DEFAULT '{}',
  features        jsonb   NOT NULL DEFAULT '{}',
  warm            integer NOT NULL DEFAULT 0,
  grace           integer NOT NULL DEFAULT 604800,
  replica_seconds integer NOT NULL DEFAULT 0,
  CONSTRAINT plans_pkey PRIMARY KEY (name),
  CONSTRAINT plans_features_check CHECK (jsonb_typeof(features) = 'object'),
  CONSTRAINT plans_grace_check CHECK (grace >= 0),
  CONSTRAINT plans_isolation_check CHECK (isolation IN ('pooled', 'schema', 'database')),
  CONSTRAINT plans_limits_check CHECK (jsonb_typeof(limits) = 'object'),
  CONSTRAINT plans_replica_seconds_check CHECK (replica_seconds >= 0),
  CONSTRAINT plans_warm_check CHECK (warm >= 0),
  CONSTRAINT plans_weight_check CHECK (weight > 0)
);

CREATE TABLE shards (
  name       text        NOT NULL,
  dsn        text        NOT NULL,
  admin_dsn  text        NOT NULL,
  state      text        NOT NULL DEFAULT 'open',
  binding    text        NOT NULL,
  dedicated  boolean     NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT shards_pkey PRIMARY KEY (name),
  CONSTRAINT shards_binding_check CHECK (binding IN ('sealed', 'signed')),
  CONSTRAINT shards_state_check CHECK (state IN ('open', 'closed'))
);

CREATE TABLE credentials (
  shard    text NOT NULL,
  role     text NOT NULL,
  password text NOT NULL,
  CONSTRAINT credentials_pkey PRIMARY KEY (shard, role),
  CONSTRAINT credentials_shard_fkey FOREIGN KEY (shard) REFERENCES shards(name) ON DELETE CASCADE
);

CREATE TABLE spaces (
  id         bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
  shard      text        NOT NULL,
  database   text        NOT NULL,
  schema     text        NOT NULL,
  isolation  text        NOT NULL,
  state      text        NOT NULL,
  template   text,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT spaces_pkey PRIMARY KEY (id),
  CONSTRAINT spaces_shard_database_schema_key UNIQUE (shard, database, schema),
  CONSTRAINT spaces_isolation_check CHECK (isolation IN ('pooled', 'schema', 'database')),
  CONSTRAINT spaces_state_check CHECK (state IN ('building', 'ready', 'reserved', 'occupied', 'template')),
  CONSTRAINT spaces_shard_fkey FOREIGN KEY (shard) REFERENCES shards(name)
);
CREATE INDEX spaces_ready ON spaces (isolation, shard, id) WHERE state = 'ready';

CREATE TABLE tenants (
  id           uuid        NOT NULL DEFAULT gen_random_uuid(),
  key          text        NOT NULL,
  slug         text        NOT NULL,
  name         text        NOT NULL,
  plan         text        NOT NULL,
  state        text        NOT NULL,
  created_at   timestamptz NOT NULL DEFAULT now(),
  delete_after timestamptz,
  CONSTRAINT tenants_pkey PRIMARY KEY (id),
  CONSTRAINT tenants_key_key UNIQUE (key),
  CONSTRAINT tenants_state_check CHECK (state IN ('provisioning', 'active', 'suspended', 'deleting', 'deleted')),
  CONSTRAINT tenants_plan_fkey FOREIGN KEY (plan) REFERENCES plans(name)
);
CREATE UNIQUE INDEX tenants_slug ON tenants (slug) WHERE state <> 'deleted';
CREATE INDEX tenants_plan ON tenants (plan);

CREATE TABLE placements (
  tenant uuid        NOT NULL,
  space  bigint      NOT NULL,
  epoch  bigint      NOT NULL,
  since  timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT placements_pkey PRIMARY KEY (tenant),
  CONSTRAINT placements_epoch_check CHECK (epoch > 0),
  CONSTRAINT placements_space_fkey FOREIGN KEY (space) REFERENCES spaces(id),
  CONSTRAINT placements_tenant_fkey FOREIGN KEY (tenant) REFERENCES tenants(id)
);
CREATE INDEX placements_space ON placements (space);

CREATE TABLE domains (
  domain     text        NOT NULL,
  tenant     uuid        NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT domains_pkey PRIMARY KEY (domain),
  CONSTRAINT domains_tenant_fkey FOREIGN KEY (tenant) REFERENCES tenants(id)
);
CREATE INDEX domains_tenant ON domains (tenant);

CREATE TABLE signing_keys (
  kid        text        NOT NULL,
  key        bytea       NOT NULL,
  state      text        NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  not_after  timestamptz NOT NULL,
  CONSTRAINT signing_keys_pkey PRIMARY KEY (kid),
  CONSTRAINT signing_keys_key_check CHECK (length(key) >= 32 AND length(key) <= 64),
  CONSTRAINT signing_keys_kid_check CHECK (kid ~ '^[0-9a-z]{1,16}$'),
  CONSTRAINT signing_keys_state_check CHECK (state IN ('pending', 'active', 'retiring'))
);
CREATE UNIQUE INDEX signing_keys_active ON signing_keys (state) WHERE state = 'active';

CREATE TABLE audit_log (
  id      bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
  at      timestamptz NOT NULL DEFAULT now(),
  actor   text        NOT NULL,
  action  text        NOT NULL,
  subject text        NOT NULL,
  reason  text,
  detail  jsonb       NOT NULL DEFAULT '{}',
  CONSTRAINT audit_log_pkey PRIMARY KEY (id)
);
CREATE INDEX audit_log_subject ON audit_log (subject, at);

CREATE TABLE operations (
  id           bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
  kind         text        NOT NULL,
  state        text        NOT NULL DEFAULT 'pending',
  args         jsonb       NOT NULL DEFAULT '{}',
  actor        text        NOT NULL,
  step         text,
  attempt      integer     NOT NULL DEFAULT 0,
  owner        text,
  fence        bigint      NOT NULL DEFAULT 0,
  predecessors text[]      NOT NULL DEFAULT '{}',
  lease_until  timestamptz,
  resume_at    timestamptz,
  error        jsonb,
  created_at   timestamptz NOT NULL DEFAULT now(),
  finished_at  timestamptz,
  CONSTRAINT operations_pkey PRIMARY KEY (id),
  CONSTRAINT operations_state_check CHECK (state IN ('pending', 'running', 'waiting', 'done', 'undoing', 'undone'))
);
CREATE INDEX operations_open ON operations (id) WHERE state IN ('pending', 'running', 'waiting', 'undoing');

CREATE TABLE operation_steps (
  operation bigint      NOT NULL,
  step      text        NOT NULL,
  output    jsonb       NOT NULL DEFAULT '{}',
  at        timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT operation_steps_pkey PRIMARY KEY (operation, step),
  CONSTRAINT operation_steps_operation_fkey FOREIGN KEY (operation) REFERENCES operations(id)
);

CREATE TABLE operation_tenants (
  tenant    uuid   NOT NULL,
  operation bigint NOT NULL,
  CONSTRAINT operation_tenants_pkey PRIMARY KEY (tenant),
  CONSTRAINT operation_tenants_operation_fkey FOREIGN KEY (operation) REFERENCES operations(id),
  CONSTRAINT operation_tenants_tenant_fkey FOREIGN KEY (tenant) REFERENCES tenants(id)
);
CREATE INDEX operation_tenants_operation ON operation_tenants (operation);

CREATE TABLE replicas (
  shard      text        NOT NULL,
  name       text        NOT NULL,
  dsn        text        NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT replicas_pkey PRIMARY KEY (shard, name),
  CONSTRAINT replicas_shard_fkey FOREIGN KEY (shard) REFERENCES shards(name) ON DELETE CASCADE
);

CREATE TABLE reserved (
  key    text        NOT NULL,
  space  bigint      NOT NULL,
  plan   text        NOT NULL,
  holder text,
  until  timestamptz,
  CONSTRAINT reserved_pkey PRIMARY KEY (key),
  CONSTRAINT reserved_check CHECK ((holder IS NULL) = (until IS NULL)),
  CONSTRAINT reserved_space_fkey FOREIGN KEY (space) REFERENCES spaces(id) ON DELETE CASCADE
);
CREATE INDEX reserved_space ON reserved (space);
CREATE INDEX reserved_until ON reserved (until);

CREATE VIEW library_shards WITH (security_barrier=true) AS
SELECT s.name, s.dsn, s.state, s.binding, s.dedicated, s.created_at, c.role, c.password
FROM shards s
LEFT JOIN credentials c ON c.shard = s.name AND c.role = 'tenantry_app';

CREATE VIEW library_keys WITH (security_barrier=true) AS
SELECT kid, key, state, not_after
FROM signing_keys
WHERE state = 'active';

CREATE VIEW library_tenants AS
SELECT t.id, t.key, t.slug, t.name, t.plan, t.state, t.created_at, s.shard, s.database, s.schema, s.isolation,
  p.epoch
FROM tenants t
LEFT JOIN placements p ON p.tenant = t.id
LEFT JOIN spaces s ON s.id = p.space;

CREATE FUNCTION audit_log_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'tenantry: the audit log only grows';
END $$;

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

CREATE FUNCTION new_keys_v1(kind text, wanted integer) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
  missing int := wanted;
  step int := wanted;
  found int;
BEGIN
  IF kind <> 'bigint' THEN
    RETURN QUERY SELECT gen_random_uuid()::text FROM generate_series(1, wanted);
    RETURN;
  END IF;
  WHILE missing > 0 LOOP
    RETURN QUERY
      SELECT n.key FROM (SELECT nextval('tenant_keys')::text AS key FROM generate_series(1, step)) n
       WHERE NOT EXISTS (SELECT FROM tenants t WHERE t.key = n.key)
         AND NOT EXISTS (SELECT FROM reserved r WHERE r.key = n.key)
       LIMIT missing;
    GET DIAGNOSTICS found = ROW_COUNT;
    missing := missing - found;
    step := least(step * 2, 100000);
  END LOOP;
END $$;

CREATE FUNCTION provision_v1(new_id uuid, new_key text, new_slug text, new_name text, new_plan text, chosen boolean, version text, me text, who text) RETURNS timestamp with time zone LANGUAGE plpgsql SET plan_cache_mode TO 'force_generic_plan' AS $$
DECLARE
  home bigint;
  isolation text;
  operation bigint;
BEGIN
  DELETE FROM reserved r USING spaces x, shards s, plans p
   WHERE r.key = new_key AND r.holder = me AND r.until > now()
     AND x.id = r.space AND s.name = x.shard AND s.state = 'open' AND (x.isolation = 'pooled' OR x.template = version)
     AND p.name = new_plan AND (chosen OR p.isolation = x.isolation)
  RETURNING r.space, x.isolation INTO home, isolation;
  IF home IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'TN010', MESSAGE = 'tenantry: the home is not in reserve any more';
  END IF;
  IF isolation <> 'pooled' THEN
    UPDATE spaces SET state = 'occupied' WHERE id = home;
  END IF;
  INSERT INTO tenants (id, key, slug, name, plan, state)
  VALUES (new_id, new_key, new_slug, new_name, new_plan, 'active');
  INSERT INTO placements (tenant, space, epoch) VALUES (new_id, home, 1);
  INSERT INTO operations (kind, state, args, actor, step, finished_at)
  VALUES ('provision', 'done', jsonb_build_object('tenants', ARRAY[new_id]), who, 'give', now())
  RETURNING id INTO operation;
  INSERT INTO operation_steps (operation, step, output)
  VALUES (operation, 'give', jsonb_build_object('spaces', ARRAY[home]));
  INSERT INTO audit_log (actor, action, subject) VALUES (who, 'tenant create', new_id::text);
  RETURN now();
END $$;

CREATE FUNCTION provision_many_v1(ids uuid[], keys text[], slugs text[], names text[], plan_names text[], chosen boolean, version text, me text, who text) RETURNS timestamp with time zone LANGUAGE plpgsql AS $$
DECLARE
  given int;
  homes bigint[];
  operation bigint;
BEGIN
  WITH given AS (
    DELETE FROM reserved r USING spaces x, shards s
     WHERE r.key = ANY (keys) AND r.holder = me AND r.until > now()
       AND x.id = r.space AND s.name = x.shard AND s.state = 'open' AND (x.isolation = 'pooled' OR x.template = version)
    RETURNING r.key, r.space, x.isolation
  ), occupied AS (
    UPDATE spaces SET state = 'occupied' WHERE id IN (SELECT space FROM given WHERE given.isolation <> 'pooled')
  ), made AS (
    INSERT INTO tenants (id, key, slug, name, plan, state)
    SELECT n.*, 'active' FROM unnest(ids, keys, slugs, names, plan_names) AS n
  ), placed AS (
    INSERT INTO placements (tenant, space, epoch)
    SELECT n.id, g.space, 1
      FROM unnest(ids, keys, plan_names) AS n (id, key, plan) JOIN given g ON g.key = n.key JOIN plans p ON p.name = n.plan
     WHERE chosen OR p.isolation = g.isolation
    RETURNING space
  )
  SELECT count(*), array_agg(DISTINCT space) INTO given, homes FROM placed;
  IF given < cardinality(ids) THEN
    RAISE EXCEPTION USING ERRCODE = 'TN010', MESSAGE = 'tenantry: the homes are not in reserve any more';
  END IF;
  INSERT INTO operations (kind, state, args, actor, step, finished_at)
  VALUES ('provision', 'done', jsonb_build_object('tenants', ids), who, 'give', now()) RETURNING id INTO operation;
  INSERT INTO operation_steps (operation, step, output) VALUES (operation, 'give', jsonb_build_object('spaces', homes));
  INSERT INTO audit_log (actor, action, subject) SELECT who, 'tenant create', unnest(ids)::text;
  RETURN now();
END $$;

CREATE TRIGGER announce AFTER INSERT OR DELETE OR UPDATE ON plans
  FOR EACH STATEMENT EXECUTE FUNCTION announce_fleet();
CREATE TRIGGER announce AFTER INSERT OR DELETE OR UPDATE ON shards
  FOR EACH STATEMENT EXECUTE FUNCTION announce_fleet();
CREATE TRIGGER announce AFTER INSERT OR DELETE OR UPDATE ON credentials
  FOR EACH STATEMENT EXECUTE FUNCTION announce_fleet();
CREATE TRIGGER announce_update AFTER UPDATE ON tenants
  REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION announce_tenants();
CREATE TRIGGER announce_insert AFTER INSERT ON tenants
  FOR EACH STATEMENT EXECUTE FUNCTION announce_new();
CREATE TRIGGER announce_delete AFTER DELETE ON tenants
  REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION announce_tenants();
CREATE TRIGGER announce_update AFTER UPDATE ON placements
  REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION announce_tenants();
CREATE TRIGGER announce_delete AFTER DELETE ON placements
  REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION announce_tenants();
CREATE TRIGGER announce_insert AFTER INSERT ON domains
  FOR EACH STATEMENT EXECUTE FUNCTION announce_new();
CREATE TRIGGER announce_update AFTER UPDATE ON domains
  REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION announce_tenants();
CREATE TRIGGER announce_delete AFTER DELETE ON domains
  REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION announce_tenants();
CREATE TRIGGER announce AFTER INSERT OR DELETE OR UPDATE ON signing_keys
  FOR EACH STATEMENT EXECUTE FUNCTION announce_fleet();
CREATE TRIGGER audit_log_grows BEFORE DELETE OR UPDATE OR TRUNCATE ON audit_log
  FOR EACH STATEMENT EXECUTE FUNCTION audit_log_refuse();
CREATE TRIGGER announce AFTER INSERT OR DELETE OR UPDATE ON replicas
  FOR EACH STATEMENT EXECUTE FUNCTION announce_fleet();

DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tenantry_library') THEN
    CREATE ROLE tenantry_library NOLOGIN;
  END IF;
END $$;

GRANT USAGE ON SCHEMA tenantry_catalog TO tenantry_library;
GRANT SELECT ON house, plans, domains, replicas, library_shards, library_keys, library_tenants TO tenantry_library;

INSERT INTO tenantry_migrations (number, name, checksum) VALUES
  (1, 'catalog', '225acb4220a7487a125c5d908131eedaa2fea3454873ee6b19799e032b336605'),
  (2, 'operations', '0456117040da5c3c9ade0542d918e692f959db87613fd4740374c28696ca43b5'),
  (3, 'library', '7c94e7e4b92286a240d38cc0258842ce4c77079f3d26b8c92fc37a9fcb1efc32'),
  (4, 'barriers', '54c2ed69e2f57db341605b6d6c811f5d3f2966ef870570cf552f9967b9bdd447'),
  (5, 'replicas', 'cbecb5b2149ac2946f2c50d74a6c28ef13832b5f4b4d421b342d9bfc1f09807b'),
  (6, 'reserve', '2124851e07f2467b5b0f5b8c24159d13aa3cafdfb2c44aafdd8a29ce6e2407ce');
