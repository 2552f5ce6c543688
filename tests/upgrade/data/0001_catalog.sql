-- Something in every table that this migration makes, with values at the edges of what they may hold.
INSERT INTO house (id, key_type, tenant_column, app_schema)
  VALUES ('11111111-1111-4111-8111-111111111111', 'text', 'org_id', 'app');
INSERT INTO plans (name, isolation, weight, limits, features, warm, grace) VALUES
  ('free', 'pooled', 1, '{"lock_timeout": "5s"}', '{"reports": true, "seats": 3}', 0, 0),
  ('enterprise', 'database', 2147483647, '{}', '{}', 2, 2147483647);
INSERT INTO shards (name, dsn, admin_dsn, state, binding, dedicated, created_at) VALUES
  ('main', 'host=db', 'host=db user=root password=''it''''s secret''', 'open', 'sealed', false, '2025-01-02 03:04:05.678901+00'),
  ('big-one', 'host=big', 'host=big user=root', 'closed', 'signed', true, '2025-06-07 00:00:00+00');
INSERT INTO credentials (shard, role, password) VALUES
  ('main', 'tenantry_app', 'app-password'), ('main', 'tenantry_admin', 'admin-password');
INSERT INTO spaces (shard, database, schema, isolation, state, template) VALUES
  ('main', 'app', 'public', 'pooled', 'ready', '0001-abc'), ('main', 'app', 't_1', 'schema', 'ready', '0001-abc'),
  ('main', 'template', 'public', 'database', 'template', '0001-abc'), ('big-one', 'd_1', 'public', 'database', 'occupied', NULL),
  ('big-one', 'd_2', 'public', 'database', 'building', NULL);
INSERT INTO tenants (id, key, slug, name, plan, state, created_at, delete_after) VALUES
  ('a0000000-0000-4000-8000-000000000001', 'acme', 'acme', 'Acme', 'free', 'active', '2025-02-03 00:00:00+00', NULL),
  ('a0000000-0000-4000-8000-000000000002', 'Ünï 🎉', 'umlaut', 'Ünï ''quoted'' "name"', 'free', 'suspended', '2025-02-03 00:00:01+00', NULL),
  ('a0000000-0000-4000-8000-000000000003', '-1', 'big', '', 'enterprise', 'deleting', '2025-02-03 00:00:02+00', '2026-02-03 00:00:00+00'),
  ('a0000000-0000-4000-8000-000000000004', 'gone', 'acme', 'Old Acme', 'free', 'deleted', '2024-02-03 00:00:00+00', NULL),
  ('a0000000-0000-4000-8000-000000000005', 'new', 'new', 'New', 'free', 'provisioning', '2025-02-03 00:00:03+00', NULL);
SELECT nextval('tenant_keys') FROM generate_series(1, 41);
INSERT INTO placements (tenant, space, epoch, since) VALUES
  ('a0000000-0000-4000-8000-000000000001', 1, 1, '2025-02-03 00:00:00+00'),
  ('a0000000-0000-4000-8000-000000000002', 1, 9223372036854775807, '2025-02-03 00:00:01+00'),
  ('a0000000-0000-4000-8000-000000000003', 4, 2, '2025-02-03 00:00:02+00');
INSERT INTO domains (domain, tenant, created_at) VALUES
  ('acme.example', 'a0000000-0000-4000-8000-000000000001', '2025-02-03 00:00:00+00');
INSERT INTO signing_keys (kid, key, state, created_at, not_after) VALUES
  ('k1', sha256('k1'), 'retiring', '2025-01-01 00:00:00+00', '2025-04-01 00:00:00+00'),
  ('k2', sha256('k2'), 'active', '2025-03-01 00:00:00+00', '2125-06-01 00:00:00+00'),
  ('k3', sha256('k3'), 'pending', '2025-05-01 00:00:00+00', '2125-09-01 00:00:00+00');
INSERT INTO audit_log (at, actor, action, subject, reason, detail) VALUES
  ('2025-02-03 00:00:00+00', 'ada', 'tenant create', 'acme', NULL, '{}'),
  ('2025-02-04 00:00:00+00', 'ada', 'all tenants begin', 'main', 'ticket 4711', '{"role": "tenantry_operator"}');
