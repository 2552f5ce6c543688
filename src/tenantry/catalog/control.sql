-- The control plane's half of the catalog. Names are found by the connection's search path.

-- house --
SELECT key_type, tenant_column, app_schema FROM house

-- house_id --
SELECT id FROM house

-- new_house --
INSERT INTO house (key_type, tenant_column, app_schema) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING

-- plan --
SELECT name, isolation, weight, limits, features, warm, grace, replica_seconds FROM plans WHERE name = %s

-- plans --
SELECT name, isolation, weight, limits, features, warm, grace, replica_seconds,
       (SELECT count(*) FROM tenants t WHERE t.plan = p.name AND t.state <> 'deleted') AS tenants
  FROM plans p ORDER BY name

-- new_plan --
INSERT INTO plans (name, isolation, weight, limits, features, warm, grace, replica_seconds)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT DO NOTHING RETURNING name

-- change_plan --
UPDATE plans SET isolation = %s, weight = %s, limits = %s, features = %s, warm = %s, grace = %s, replica_seconds = %s
 WHERE name = %s

-- drop_plan --
DELETE FROM plans p WHERE name = %s AND NOT EXISTS (SELECT FROM tenants t WHERE t.plan = p.name) RETURNING name

-- shard --
SELECT name, dsn, state, binding, dedicated, created_at FROM shards WHERE name = %s

-- shards --
SELECT s.name, s.dsn, s.state, s.binding, s.dedicated, s.created_at,
       (SELECT count(*) FROM placements p JOIN spaces x ON x.id = p.space WHERE x.shard = s.name) AS tenants,
       (SELECT count(*) FROM spaces x WHERE x.shard = s.name AND x.state IN ('ready', 'reserved')
           AND x.isolation <> 'pooled') AS warm
  FROM shards s ORDER BY s.name

-- new_shard --
INSERT INTO shards (name, dsn, admin_dsn, state, binding, dedicated) VALUES (%s, %s, %s, 'closed', %s, %s)
ON CONFLICT DO NOTHING RETURNING name

-- shard_address --
UPDATE shards SET dsn = %s, admin_dsn = %s WHERE name = %s RETURNING name

-- shard_state --
UPDATE shards SET state = %s WHERE name = %s RETURNING name

-- admin_dsn --
SELECT admin_dsn FROM shards WHERE name = %s

-- replicas --
SELECT shard, name, dsn, created_at FROM replicas WHERE shard = %(shard)s OR %(shard)s::text IS NULL ORDER BY shard, name

-- new_replica --
INSERT INTO replicas (shard, name, dsn) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING RETURNING shard, name, dsn, created_at

-- drop_replica --
DELETE FROM replicas WHERE shard = %s AND name = %s RETURNING shard, name, dsn, created_at

-- credentials --
SELECT role, password FROM credentials WHERE shard = %s

-- new_credential --
INSERT INTO credentials (shard, role, password) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING

-- new_space --
INSERT INTO spaces (shard, database, schema, isolation, state) VALUES (%s, %s, %s, %s, %s)
ON CONFLICT (shard, database, schema) DO UPDATE SET shard = excluded.shard
RETURNING id, shard, database, schema, isolation, state, template

-- space --
SELECT id, shard, database, schema, isolation, state, template FROM spaces WHERE id = %s

-- spaces_by_id --
SELECT id, shard, database, schema, isolation, state, template FROM spaces WHERE id = ANY (%s) ORDER BY id

-- spaces --
SELECT id, shard, database, schema, isolation, state, template FROM spaces
 WHERE state IN ('ready', 'reserved', 'occupied', 'template') ORDER BY shard, database, schema

-- pooled_space --
SELECT id, shard, database, schema, isolation, state, template FROM spaces WHERE shard = %s AND isolation = 'pooled'

-- template_space --
SELECT id, shard, database, schema, isolation, state, template FROM spaces WHERE shard = %s AND state = 'template'

-- databases --
SELECT DISTINCT shard, database FROM spaces WHERE state NOT IN ('building', 'template') ORDER BY shard, database

-- space_states --
UPDATE spaces SET state = %s WHERE id = ANY (%s)

-- templates --
SELECT template FROM spaces WHERE template <> %s LIMIT 1

-- space_template --
UPDATE spaces SET template = %s WHERE id = ANY (%s)

-- spaces_ready_again --
UPDATE spaces SET state = 'ready' WHERE id = ANY (%s) AND state = 'occupied' AND isolation <> 'pooled'

-- drop_spaces --
DELETE FROM spaces WHERE id = ANY (%s)

-- open_pooled --
SELECT x.id, x.shard FROM spaces x JOIN shards s ON s.name = x.shard
 WHERE x.isolation = 'pooled' AND x.state = 'ready' AND s.state = 'open'
   AND (s.name = %(shard)s OR (%(shard)s::text IS NULL AND NOT s.dedicated))
 ORDER BY x.id

-- open_shards --
SELECT s.name FROM shards s
 WHERE s.state = 'open' AND (s.name = %(shard)s OR (%(shard)s::text IS NULL AND NOT s.dedicated))
 ORDER BY s.name

-- emptiest_pooled --
SELECT x.id FROM spaces x WHERE x.id = ANY (%s)
 ORDER BY (SELECT count(*) FROM placements p WHERE p.space = x.id), x.id LIMIT 1

-- claim_ready --
UPDATE spaces SET state = 'occupied'
 WHERE id IN (SELECT x.id FROM spaces x JOIN shards s ON s.name = x.shard
               WHERE x.state = 'ready' AND x.isolation = %(isolation)s AND x.template = %(template)s AND s.state = 'open'
                 AND (s.name = %(shard)s OR (%(shard)s::text IS NULL AND NOT s.dedicated))
               ORDER BY x.id LIMIT %(count)s FOR UPDATE OF x SKIP LOCKED)
RETURNING id

-- ready_spaces --
SELECT count(*) AS ready FROM spaces
 WHERE shard = %s AND isolation = %s AND (state = 'building' OR (state IN ('ready', 'reserved') AND template = %s))

-- tenant_by_slug --
SELECT id, key, slug, name, plan, state, created_at, shard, database, schema, isolation, epoch
  FROM library_tenants WHERE slug = %s AND state <> 'deleted'

-- tenants --
SELECT id, key, slug, name, plan, state, created_at, shard, database, schema, isolation, epoch
  FROM library_tenants
 WHERE (%(state)s::text IS NULL OR state = %(state)s) AND (%(state)s = 'deleted' OR state <> 'deleted')
   AND (%(plan)s::text IS NULL OR plan = %(plan)s) AND (%(shard)s::text IS NULL OR shard = %(shard)s)
   AND (%(isolation)s::text IS NULL OR isolation = %(isolation)s) AND slug > %(after)s
 ORDER BY slug LIMIT %(limit)s

-- tenants_by_id --
SELECT id, key, slug, name, plan, state, created_at, shard, database, schema, isolation, epoch
  FROM library_tenants WHERE id = ANY (%s)

-- taken --
SELECT slug, key FROM tenants WHERE slug = ANY (%(slugs)s) AND state <> 'deleted'
 UNION ALL
SELECT NULL, key FROM tenants WHERE key = ANY (%(keys)s)
 UNION ALL
SELECT NULL, key FROM reserved WHERE key = ANY (%(keys)s)

-- new_tenants --
INSERT INTO tenants (id, key, slug, name, plan, state)
SELECT *, 'provisioning' FROM unnest(%s::uuid[], %s::text[], %s::text[], %s::text[], %s::text[])

-- drop_tenants --
DELETE FROM tenants WHERE id = ANY (%s) AND state = 'provisioning'

-- tenant_states --
UPDATE tenants SET state = %s WHERE id = ANY (%s)

-- tenant_back --
UPDATE tenants SET state = %s, delete_after = NULL WHERE id = ANY (%s)

-- tenant_deleting --
UPDATE tenants SET state = 'deleting', delete_after = %s WHERE id = ANY (%s)

-- tenant_gone --
UPDATE tenants SET state = 'deleted', delete_after = NULL WHERE id = ANY (%s)

-- tenant_plan --
UPDATE tenants SET plan = %s WHERE id = ANY (%s)

-- new_placements --
INSERT INTO placements (tenant, space, epoch) SELECT *, 1 FROM unnest(%s::uuid[], %s::bigint[]) ON CONFLICT DO NOTHING

-- drop_placements --
DELETE FROM placements WHERE tenant = ANY (%s) RETURNING space

-- drop_domains --
DELETE FROM domains WHERE tenant = ANY (%s)

-- new_domain --
INSERT INTO domains (domain, tenant) VALUES (%s, %s) ON CONFLICT DO NOTHING RETURNING domain

-- homes --
SELECT t.id, t.key, t.slug, t.plan, p.epoch, s.id AS space, s.shard, s.database, s.schema, s.isolation, s.state
  FROM tenants t JOIN placements p ON p.tenant = t.id JOIN spaces s ON s.id = p.space
 WHERE t.id = ANY (%s) ORDER BY t.id

-- shard_tenants --
SELECT t.key, t.slug, t.state, p.epoch, s.database,
       EXISTS (SELECT FROM operation_tenants o WHERE o.tenant = t.id) AS busy
  FROM tenants t JOIN placements p ON p.tenant = t.id JOIN spaces s ON s.id = p.space
 WHERE s.shard = %(shard)s
 UNION ALL
SELECT r.key, '(nobody yet)', 'active', 1, s.database, r.holder IS NOT NULL
  FROM reserved r JOIN spaces s ON s.id = r.space WHERE s.shard = %(shard)s

-- delete_after --
SELECT max(delete_after) AS delete_after FROM tenants WHERE id = ANY (%s)

-- now --
SELECT now() AS now

-- keys --
SELECT kid, key, state, created_at, not_after FROM signing_keys ORDER BY created_at

-- keys_due --
SELECT kid, EXISTS (SELECT FROM operations WHERE kind = 'rotate' AND state NOT IN ('done', 'undone')) AS renewing
  FROM signing_keys WHERE state = 'active' AND not_after < now() + make_interval(days => %s)

-- new_key --
INSERT INTO signing_keys (kid, key, state, not_after) VALUES (%s, %s, %s, now() + make_interval(days => %s))
ON CONFLICT DO NOTHING

-- retire_keys --
UPDATE signing_keys SET state = 'retiring' WHERE state = 'active' AND kid <> %s RETURNING kid

-- activate_key --
UPDATE signing_keys SET state = 'active' WHERE kid = %s

-- drop_retiring_keys --
DELETE FROM signing_keys WHERE state = 'retiring' AND kid = ANY (%s)

-- drop_pending_key --
DELETE FROM signing_keys WHERE state = 'pending' AND kid = %s

-- audit --
INSERT INTO audit_log (actor, action, subject, reason, detail) VALUES (%s, %s, %s, %s, %s)

-- audit_many --
INSERT INTO audit_log (actor, action, subject) SELECT %s, %s, unnest(%s::text[])

-- move_placement --
-- An epoch only grows: who does this a second time changes nothing.
UPDATE placements SET space = %(space)s, epoch = %(epoch)s, since = now() WHERE tenant = %(tenant)s AND epoch < %(epoch)s
