-- Who lives where, as the databases know it. Double braces stand for the type of the tenant column.

-- admit --
INSERT INTO tenantry.residents (code, tenant, epoch, state, schema, plan)
SELECT * FROM unnest(%(codes)s::text[], %(keys)s::{{type}}[], %(epochs)s::bigint[], %(states)s::text[], %(schemas)s::text[],
                     %(plans)s::text[])
    ON CONFLICT (code) DO UPDATE SET epoch = excluded.epoch, state = excluded.state,
       schema = excluded.schema, plan = excluded.plan WHERE residents.epoch <= excluded.epoch

-- reserve --
-- For tenants that are to come. Those that somebody has been let in with before are not among the answer; nobody, when
-- the time is over in which they were ours to let in.
INSERT INTO tenantry.residents (code, tenant, epoch, state, schema, plan)
SELECT n.code, n.tenant, 1, 'open', n.schema, %(plan)s
  FROM unnest(%(codes)s::text[], %(keys)s::{{type}}[], %(schemas)s::text[]) AS n (code, tenant, schema)
 WHERE clock_timestamp() < %(until)s
    ON CONFLICT DO NOTHING RETURNING code

-- reserve_own --
-- The same for homes that must be nobody else's. A database has a home of its own: here it is only written down.
INSERT INTO tenantry.residents (code, tenant, epoch, state, schema, plan)
SELECT n.code, n.tenant, 1, %(state)s, n.schema, %(plan)s
  FROM unnest(%(codes)s::text[], %(keys)s::{{type}}[], %(schemas)s::text[]) AS n (code, tenant, schema)
 WHERE clock_timestamp() < %(until)s
   AND NOT EXISTS (SELECT FROM tenantry.residents r WHERE left(r.schema, 2) IN ('t_', 'd_') AND r.schema = n.schema)
    ON CONFLICT DO NOTHING RETURNING code

-- write_down --
-- Who lives in a database of its own: 'moved' from here, to the database that stands as the schema.
INSERT INTO tenantry.residents (code, tenant, epoch, state, schema, plan)
SELECT n.code, n.tenant, 1, 'moved', n.schema, n.plan
  FROM unnest(%(codes)s::text[], %(keys)s::{{type}}[], %(schemas)s::text[], %(plans)s::text[]) AS n (code, tenant, schema, plan)
    ON CONFLICT DO NOTHING

-- write_down_again --
-- The same for one who may be written down, or have lived here, until now.
INSERT INTO tenantry.residents (code, tenant, epoch, state, schema, plan)
SELECT n.code, n.tenant, 1, 'moved', n.schema, n.plan
  FROM unnest(%(codes)s::text[], %(keys)s::{{type}}[], %(schemas)s::text[], %(plans)s::text[]) AS n (code, tenant, schema, plan)
    ON CONFLICT (code) DO UPDATE SET state = 'moved', schema = excluded.schema, gate = NULL

-- dismiss --
DELETE FROM tenantry.residents WHERE code = ANY (%(codes)s)

-- with_code --
SELECT code, schema FROM tenantry.residents WHERE code = ANY (%(codes)s) LIMIT 1

-- in_homes --
SELECT code, schema FROM tenantry.residents
 WHERE left(schema, 2) IN ('t_', 'd_') AND schema = ANY (%(schemas)s) LIMIT 1

-- but_these --
SELECT code, schema FROM tenantry.residents WHERE code <> ALL (%(codes)s) LIMIT 1

-- change_plan --
UPDATE tenantry.residents SET plan = %(plan)s WHERE code = %(code)s AND plan <> %(plan)s
