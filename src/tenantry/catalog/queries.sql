-- The application's half of the catalog: what the cached view reads.

-- house --
SELECT key_type, tenant_column, app_schema FROM tenantry_catalog.house

-- plans --
SELECT name, isolation, weight, limits, features, warm, grace, replica_seconds FROM tenantry_catalog.plans

-- shards --
SELECT name, dsn, state, binding, dedicated, created_at, role, password FROM tenantry_catalog.library_shards

-- replicas --
SELECT shard, name, dsn, created_at FROM tenantry_catalog.replicas ORDER BY shard, name

-- active_key --
SELECT kid, key, not_after FROM tenantry_catalog.library_keys

-- tenant_by_id --
SELECT id, key, slug, name, plan, state, created_at, shard, database, schema, isolation, epoch
  FROM tenantry_catalog.library_tenants WHERE id = %s

-- tenant_by_slug --
SELECT id, key, slug, name, plan, state, created_at, shard, database, schema, isolation, epoch
  FROM tenantry_catalog.library_tenants WHERE slug = %s AND state <> 'deleted'

-- tenant_by_key --
SELECT id, key, slug, name, plan, state, created_at, shard, database, schema, isolation, epoch
  FROM tenantry_catalog.library_tenants WHERE key = %s

-- tenant_by_domain --
SELECT t.id, t.key, t.slug, t.name, t.plan, t.state, t.created_at, t.shard, t.database, t.schema, t.isolation, t.epoch
  FROM tenantry_catalog.domains d JOIN tenantry_catalog.library_tenants t ON t.id = d.tenant WHERE d.domain = %s
