-- The engine's queries. Names are found by the connection's search path.

-- new --
INSERT INTO operations (kind, args, actor, state, owner, fence, lease_until)
VALUES (%(kind)s, %(args)s, %(actor)s, 'running', %(owner)s, 1, now() + make_interval(secs => %(lease)s))
RETURNING id, kind, args, actor, fence, attempt, state, predecessors

-- new_tenants --
INSERT INTO operation_tenants (tenant, operation) SELECT unnest(%s::uuid[]), %s

-- claim --
-- An owner that is still written there has not let go by itself: it is dead, or will wake up some day.
WITH found AS (
  SELECT id, owner FROM operations
   WHERE kind = ANY (%(kinds)s) AND (%(id)s::bigint IS NULL OR id = %(id)s) AND id <> ALL (%(running)s::bigint[])
     AND state IN ('pending', 'waiting', 'running', 'undoing')
     AND coalesce(lease_until, resume_at, now()) <= now()
   ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED
)
UPDATE operations o
   SET state = CASE WHEN o.state = 'undoing' THEN o.state ELSE 'running' END, owner = %(owner)s, fence = o.fence + 1,
       attempt = o.attempt + 1, lease_until = now() + make_interval(secs => %(lease)s), resume_at = NULL,
       predecessors = CASE WHEN found.owner IS NULL THEN o.predecessors ELSE o.predecessors || found.owner END
  FROM found WHERE o.id = found.id
RETURNING o.id, o.kind, o.args, o.actor, o.fence, o.attempt, o.state, o.predecessors

-- idle --
SELECT kind FROM operations WHERE id = %s AND state IN ('pending', 'waiting') AND owner IS NULL FOR UPDATE

-- recall --
UPDATE operations SET state = 'undoing', owner = %(owner)s, fence = fence + 1, attempt = 0, resume_at = NULL,
       lease_until = now() + make_interval(secs => %(lease)s)
 WHERE id = %(id)s
RETURNING id, kind, args, actor, fence, attempt, state, predecessors

-- beat --
UPDATE operations SET lease_until = now() + make_interval(secs => %s)
 WHERE id = %s AND fence = %s AND state IN ('running', 'undoing') RETURNING id

-- holds --
SELECT id FROM operations WHERE id = %s AND fence = %s AND state IN ('running', 'undoing')

-- hold --
SELECT id FROM operations WHERE id = %s AND fence = %s AND state IN ('running', 'undoing') FOR UPDATE

-- steps --
SELECT step, output FROM operation_steps WHERE operation = %s ORDER BY at

-- record --
WITH at AS (UPDATE operations SET step = %(step)s, attempt = 0 WHERE id = %(id)s RETURNING id)
INSERT INTO operation_steps (operation, step, output) SELECT id, %(step)s, %(output)s FROM at

-- unrecord --
DELETE FROM operation_steps WHERE operation = %s AND step = %s

-- postpone --
UPDATE operations SET state = %(state)s, resume_at = %(until)s, lease_until = NULL, owner = NULL, error = %(error)s
 WHERE id = %(id)s AND fence = %(fence)s AND state = 'running' RETURNING id

-- postpone_undo --
-- The error that led to the undoing stays.
UPDATE operations SET state = %(state)s, resume_at = %(until)s, lease_until = NULL, owner = NULL,
       error = CASE WHEN %(error)s::jsonb IS NULL THEN error
                    ELSE coalesce(error, '{}') || jsonb_build_object('undo', %(error)s::jsonb) END
 WHERE id = %(id)s AND fence = %(fence)s AND state = 'undoing' RETURNING id

-- undo --
UPDATE operations SET state = 'undoing', attempt = 0, error = %s
 WHERE id = %s AND fence = %s AND state = 'running' RETURNING id

-- finish --
UPDATE operations SET state = %s, error = CASE WHEN %s = 'done' THEN NULL ELSE error END, lease_until = NULL,
       owner = NULL, finished_at = now()
 WHERE id = %s

-- release --
DELETE FROM operation_tenants WHERE operation = %s

-- open_of_tenant --
SELECT o.id, o.kind, o.state FROM operations o JOIN operation_tenants t ON t.operation = o.id WHERE t.tenant = %s

-- show --
SELECT id, kind, state, step, attempt, actor, error, created_at, finished_at, resume_at FROM operations WHERE id = %s

-- unfinished --
SELECT id, kind, state, step, attempt, actor, error, created_at, finished_at, resume_at,
       coalesce(lease_until < now(), false) AS stalled
  FROM operations WHERE state NOT IN ('done', 'undone') ORDER BY id
