-- The engine's queries. Names are found by the connection's search path.

-- new --
INSERT INTO operations (kind, args, actor, state, owner, fence, lease_until)
VALUES (%(kind)s, %(args)s, %(actor)s, 'running', %(owner)s, 1, now() + make_interval(secs => %(lease)s))
RETURNING id, kind, args, actor, fence, attempt, state

-- new_tenants --
INSERT INTO operation_tenants (tenant, operation) SELECT unnest(%s::uuid[]), %s

-- claim --
UPDATE operations SET state = CASE WHEN state = 'undoing' THEN state ELSE 'running' END, owner = %(owner)s,
       fence = fence + 1, attempt = attempt + 1, lease_until = now() + make_interval(secs => %(lease)s),
       resume_at = NULL
 WHERE id = (SELECT id FROM operations
              WHERE (%(id)s::bigint IS NULL OR id = %(id)s)
                AND ((state IN ('pending', 'waiting') AND coalesce(resume_at, now()) <= now())
                     OR (state IN ('running', 'undoing') AND lease_until < now()))
              ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, kind, args, actor, fence, attempt, state

-- beat --
UPDATE operations SET lease_until = now() + make_interval(secs => %s) WHERE id = %s AND fence = %s RETURNING id

-- hold --
SELECT id FROM operations WHERE id = %s AND fence = %s AND state IN ('running', 'undoing') FOR UPDATE

-- steps --
SELECT step, output FROM operation_steps WHERE operation = %s ORDER BY at

-- record --
INSERT INTO operation_steps (operation, step, output) VALUES (%s, %s, %s)

-- unrecord --
DELETE FROM operation_steps WHERE operation = %s AND step = %s

-- at_step --
UPDATE operations SET step = %s WHERE id = %s

-- postpone --
UPDATE operations SET state = %s, resume_at = %s, lease_until = NULL, owner = NULL, error = %s
 WHERE id = %s AND fence = %s

-- undo --
UPDATE operations SET state = 'undoing', error = coalesce(%s, error) WHERE id = %s AND fence = %s

-- recall --
UPDATE operations SET state = 'undoing', owner = %(owner)s, fence = fence + 1, resume_at = NULL,
       lease_until = now() + make_interval(secs => %(lease)s)
 WHERE id = %(id)s AND state = 'waiting'
RETURNING id, kind, args, actor, fence, attempt, state

-- finish --
UPDATE operations SET state = %s, error = coalesce(%s, error), lease_until = NULL, owner = NULL, finished_at = now()
 WHERE id = %s AND fence = %s

-- release --
DELETE FROM operation_tenants WHERE operation = %s

-- open_of_tenant --
SELECT o.id, o.kind, o.state FROM operations o JOIN operation_tenants t ON t.operation = o.id WHERE t.tenant = %s

-- show --
SELECT id, kind, state, step, attempt, actor, error, created_at, finished_at, resume_at FROM operations WHERE id = %s

-- unfinished --
SELECT id, kind, state, step, attempt, actor, error, created_at, finished_at, resume_at,
       state IN ('running', 'undoing') AND lease_until < now() AS stalled
  FROM operations WHERE state NOT IN ('done', 'undone') ORDER BY id
