-- Homes in reserve: those that a process has in its hands, for tenants that are about to come. Names are found by the
-- connection's search path.

-- plan_levels --
SELECT name, isolation FROM plans

-- hold_pooled --
INSERT INTO reserved (key, space, plan, holder, until)
SELECT key, %(space)s, %(plan)s, %(me)s, now() + make_interval(secs => %(lease)s)
  FROM new_keys_v1(%(kind)s, %(count)s) AS key
RETURNING key, space, plan, until

-- hold_schemas --
-- At most half of those that are ready: other processes want some too.
WITH found AS (
  SELECT x.id FROM spaces x JOIN shards s ON s.name = x.shard
   WHERE x.state = 'ready' AND x.isolation = 'schema' AND x.template = %(version)s AND s.state = 'open'
     AND (s.name = %(shard)s OR (%(shard)s::text IS NULL AND NOT s.dedicated))
   ORDER BY x.id FOR UPDATE OF x SKIP LOCKED
   LIMIT (SELECT least(%(count)s, greatest(1, count(*) / 2)) FROM spaces WHERE state = 'ready' AND isolation = 'schema')
), held AS (
  UPDATE spaces SET state = 'reserved' WHERE id IN (SELECT id FROM found) RETURNING id
)
INSERT INTO reserved (key, space, plan, holder, until)
SELECT k.key, h.id, %(plan)s, %(me)s, now() + make_interval(secs => %(lease)s)
  FROM (SELECT id, row_number() OVER (ORDER BY id) AS number FROM held) h
  JOIN new_keys_v1(%(kind)s, (SELECT count(*) FROM held)::int) WITH ORDINALITY k (key, number) USING (number)
RETURNING key, space, plan, until

-- hold_databases --
-- Those that were made with a resident: its key is the tenant's.
WITH found AS (
  SELECT x.id FROM spaces x JOIN shards s ON s.name = x.shard
   WHERE x.state = 'ready' AND x.isolation = 'database' AND x.template = %(version)s AND s.state = 'open'
     AND (s.name = %(shard)s OR (%(shard)s::text IS NULL AND NOT s.dedicated))
     AND EXISTS (SELECT FROM reserved r WHERE r.space = x.id)
   ORDER BY x.id FOR UPDATE OF x SKIP LOCKED
   LIMIT (SELECT least(%(count)s, greatest(1, count(*) / 2)) FROM spaces WHERE state = 'ready' AND isolation = 'database')
), held AS (
  UPDATE spaces SET state = 'reserved' WHERE id IN (SELECT id FROM found) RETURNING id
)
UPDATE reserved SET holder = %(me)s, until = now() + make_interval(secs => %(lease)s)
 WHERE space IN (SELECT id FROM held) RETURNING key, space, plan, until

-- give --
-- The microseconds of when it was. It is sent by Express, which knows numbered parameters only.
SELECT (extract(epoch FROM provision_v1($1, $2, $3, $4, $5, $6, $7, $8, $9)) * 1000000)::bigint

-- give_many --
SELECT provision_many_v1(%s, %s, %s, %s, %s, %s, %s, %s, %s) AS created_at

-- reserve_plan --
UPDATE reserved SET plan = %s WHERE key = ANY (%s) AND holder = %s

-- let_go --
-- An empty database keeps the resident that it was made with; any other key is used up.
WITH mine AS (
  SELECT r.key, x.id, x.isolation FROM reserved r JOIN spaces x ON x.id = r.space
   WHERE r.key = ANY (%(keys)s) AND r.holder = %(me)s FOR UPDATE OF r
), kept AS (
  UPDATE reserved SET holder = NULL, until = NULL WHERE key IN (SELECT key FROM mine WHERE isolation = 'database')
), gone AS (
  DELETE FROM reserved WHERE key IN (SELECT key FROM mine WHERE isolation <> 'database')
)
UPDATE spaces SET state = 'ready' WHERE id IN (SELECT id FROM mine WHERE isolation <> 'pooled') AND state = 'reserved'

-- left_behind --
-- What processes had in their hands when they died; from now on it is in ours.
UPDATE reserved r SET holder = %(me)s, until = now() + make_interval(secs => %(lease)s)
 FROM spaces x
 WHERE x.id = r.space
   AND r.key IN (SELECT key FROM reserved WHERE until < now() ORDER BY until LIMIT %(count)s FOR UPDATE SKIP LOCKED)
RETURNING r.key, r.space, x.shard, x.database, x.schema, x.isolation

-- cleared --
-- 'state' is what becomes of homes of their own; pooled ones stay what they are. None: they have been dropped.
WITH mine AS (
  DELETE FROM reserved r USING spaces x
   WHERE x.id = r.space AND r.key = ANY (%(keys)s) AND r.holder = %(me)s RETURNING x.id, x.isolation
), dropped AS (
  DELETE FROM spaces WHERE id IN (SELECT id FROM mine WHERE isolation <> 'pooled') AND %(state)s::text IS NULL
)
UPDATE spaces SET state = %(state)s
 WHERE id IN (SELECT id FROM mine WHERE isolation <> 'pooled') AND %(state)s::text IS NOT NULL

-- overdue --
SELECT count(*) AS overdue FROM reserved WHERE until < now() - %s

-- new_reserved --
INSERT INTO reserved (key, space, plan) SELECT *, %s FROM unnest(%s::text[], %s::bigint[])

-- reserved_of --
SELECT key, space, plan FROM reserved WHERE space = ANY (%s) AND holder IS NULL

-- drop_reserved --
DELETE FROM reserved WHERE space = ANY (%s) AND holder IS NULL

-- new_keys --
SELECT key FROM new_keys_v1(%s, %s) AS key

-- new_spaces --
INSERT INTO spaces (shard, database, schema, isolation, state)
SELECT shard, database, schema, %s, %s FROM unnest(%s::text[], %s::text[], %s::text[]) AS n (shard, database, schema)
RETURNING id, shard, database, schema, isolation, state, template

-- fullness --
-- Tenants, and homes that are being built for some.
SELECT s.name, (SELECT count(*) FROM spaces x LEFT JOIN placements p ON p.space = x.id
                 WHERE x.shard = s.name AND (x.state = 'building' OR p.tenant IS NOT NULL)) AS count
  FROM shards s WHERE s.name = ANY (%s) ORDER BY s.name

-- draws_keys --
SELECT is_called AS draws FROM tenant_keys
