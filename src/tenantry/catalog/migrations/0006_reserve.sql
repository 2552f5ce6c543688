-- Homes in reserve: whoever is given one is a tenant by a single statement of the catalog, because the databases know it
-- beforehand. A home is 'reserved' while a process has it in its hands.
ALTER TABLE spaces DROP CONSTRAINT spaces_state_check;
ALTER TABLE spaces ADD CONSTRAINT spaces_state_check
  CHECK (state IN ('building', 'ready', 'reserved', 'occupied', 'template'));

-- A key that is nobody's yet and has a home: a resident there. 'holder' may give it to a tenant 'until' then; afterwards
-- any worker clears it away. Without a holder it is the resident that an empty database was made with.
CREATE TABLE reserved (
  key    text PRIMARY KEY,
  space  bigint NOT NULL REFERENCES spaces ON DELETE CASCADE,
  plan   text NOT NULL,
  holder text,
  until  timestamptz,
  CHECK ((holder IS NULL) = (until IS NULL))
);
CREATE INDEX reserved_space ON reserved (space);
CREATE INDEX reserved_until ON reserved (until);

-- The next keys that are nobody's. Numbers that operators have chosen themselves are passed over, in ever larger steps:
-- there may be a million of them in a row.
CREATE FUNCTION new_keys_v1(kind text, wanted int) RETURNS SETOF text LANGUAGE plpgsql AS $$
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

-- Give a home in reserve to a new tenant. It is an operation like any other, of one step, and over when it is seen.
-- 'chosen': the isolation was asked for; otherwise it has to be the plan's. 'version': of the tables, for homes with
-- tables of their own.
-- Plans are made once: looking for better ones takes longer than all that is done here.
CREATE FUNCTION provision_v1(new_id uuid, new_key text, new_slug text, new_name text, new_plan text, chosen boolean,
                             version text, me text, who text) RETURNS timestamptz
LANGUAGE plpgsql SET plan_cache_mode = force_generic_plan AS $$
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

-- The same for many at once, all or none.
CREATE FUNCTION provision_many_v1(ids uuid[], keys text[], slugs text[], names text[], plan_names text[], chosen boolean,
                                  version text, me text, who text) RETURNS timestamptz
LANGUAGE plpgsql AS $$
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
