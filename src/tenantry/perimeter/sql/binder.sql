-- What every database that holds tenants gets. Names in double braces are filled in from the house's settings:
-- key_type, and decode: the expression that turns a code into a key.
-- Owner of everything here is tenantry_sec, which nobody can become.

-- schemas --
CREATE SCHEMA IF NOT EXISTS tenantry AUTHORIZATION tenantry_sec;
CREATE SCHEMA IF NOT EXISTS tenantry_priv AUTHORIZATION tenantry_sec;
REVOKE ALL ON SCHEMA tenantry, tenantry_priv FROM PUBLIC;
GRANT USAGE ON SCHEMA tenantry TO tenantry_app, tenantry_owner, tenantry_operator, tenantry_admin, tenantry_seek;
GRANT USAGE ON SCHEMA tenantry_priv TO tenantry_admin;

-- tables --
CREATE TABLE IF NOT EXISTS tenantry_priv.signing_keys (
  kid       text PRIMARY KEY,
  ipad      bytea NOT NULL CHECK (length(ipad) = 64),
  opad      bytea NOT NULL CHECK (length(opad) = 64),
  not_after timestamptz NOT NULL
);
CREATE TABLE IF NOT EXISTS tenantry_priv.seal_key (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  ipad      bytea NOT NULL CHECK (length(ipad) = 64),
  opad      bytea NOT NULL CHECK (length(opad) = 64)
);
CREATE TABLE IF NOT EXISTS tenantry.plans (
  name   text PRIMARY KEY,
  limits text[] NOT NULL DEFAULT '{}'
);
CREATE TABLE IF NOT EXISTS tenantry.residents (
  code   text PRIMARY KEY CHECK (code ~ '^[0-9a-z]+$'),
  tenant {{key_type}} NOT NULL UNIQUE,
  epoch  bigint NOT NULL CHECK (epoch > 0),
  state  text NOT NULL,
  schema text NOT NULL,
  plan   text NOT NULL REFERENCES tenantry.plans,
  gate   xid8
);
ALTER TABLE tenantry.residents ADD COLUMN IF NOT EXISTS gate xid8;
ALTER TABLE tenantry.residents DROP CONSTRAINT IF EXISTS residents_state_check, ADD CONSTRAINT residents_state_check
  CHECK (state IN ('open', 'closing', 'suspended', 'moved', 'arriving') AND (state <> 'closing' OR gate IS NOT NULL));
CREATE TABLE IF NOT EXISTS tenantry.streams (
  name  text PRIMARY KEY,
  lsn   pg_lsn NOT NULL,
  shape text NOT NULL
);
-- Schemas and databases of one tenant: nobody is let in where somebody lives.
CREATE INDEX IF NOT EXISTS residents_homes ON tenantry.residents (schema) WHERE left(schema, 2) IN ('t_', 'd_');
ALTER TABLE tenantry_priv.signing_keys OWNER TO tenantry_sec;
ALTER TABLE tenantry_priv.seal_key OWNER TO tenantry_sec;
ALTER TABLE tenantry.plans OWNER TO tenantry_sec;
ALTER TABLE tenantry.residents OWNER TO tenantry_sec;
ALTER TABLE tenantry.streams OWNER TO tenantry_sec;
REVOKE ALL ON tenantry_priv.signing_keys, tenantry_priv.seal_key, tenantry.plans, tenantry.residents, tenantry.streams
  FROM PUBLIC;
GRANT SELECT, INSERT, UPDATE, DELETE ON tenantry.plans, tenantry.residents, tenantry.streams TO tenantry_admin;

-- hmac_v1 --
-- HMAC-SHA256 (RFC 2104) as hex, with the pads of the key made beforehand: no extension is needed.
CREATE OR REPLACE FUNCTION tenantry_priv.hmac_v1(ipad bytea, opad bytea, message text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN encode(sha256(opad || sha256(ipad || convert_to(message, 'UTF8'))), 'hex');

-- pad_v1 --
-- A key XORed with a constant byte, filled up to the block size of SHA-256 (RFC 2104).
CREATE OR REPLACE FUNCTION tenantry_priv.pad_v1(key bytea, mask int) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  block bytea := decode(repeat('00', 64), 'hex');
BEGIN
  IF length(key) NOT BETWEEN 32 AND 64 THEN
    RAISE EXCEPTION USING ERRCODE = '22023', MESSAGE = 'tenantry: a signing key must have 32 to 64 bytes';
  END IF;
  FOR n IN 0..63 LOOP
    block := set_byte(block, n, (CASE WHEN n < length(key) THEN get_byte(key, n) ELSE 0 END) # mask);
  END LOOP;
  RETURN block;
END $$;

-- add_key_v1 --
CREATE OR REPLACE FUNCTION tenantry_priv.add_key_v1(new_kid text, key bytea, expires timestamptz) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  INSERT INTO tenantry_priv.signing_keys AS k (kid, ipad, opad, not_after)
  VALUES (new_kid, tenantry_priv.pad_v1(key, 54), tenantry_priv.pad_v1(key, 92), expires)
  ON CONFLICT (kid) DO UPDATE SET ipad = excluded.ipad, opad = excluded.opad, not_after = excluded.not_after;
END $$;

-- keep_keys_v1 --
-- Forget all keys but these.
CREATE OR REPLACE FUNCTION tenantry_priv.keep_keys_v1(kids text[]) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
  DELETE FROM tenantry_priv.signing_keys WHERE kid <> ALL (kids);
END;

-- new_seal_v1 --
-- Signed mode: the key of the per-transaction seal never leaves the database.
CREATE OR REPLACE FUNCTION tenantry_priv.new_seal_v1() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  key bytea := sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()));
BEGIN
  INSERT INTO tenantry_priv.seal_key (ipad, opad)
  VALUES (tenantry_priv.pad_v1(key, 54), tenantry_priv.pad_v1(key, 92)) ON CONFLICT DO NOTHING;
END $$;

-- unbound_v1 --
CREATE OR REPLACE FUNCTION tenantry.unbound_v1() RETURNS {{key_type}}
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
BEGIN
  RAISE EXCEPTION USING ERRCODE = '42501', MESSAGE = 'tenantry: no tenant is bound to this transaction',
    HINT = 'Run the statement inside a tenant scope, in a transaction that Tenantry began.';
END $$;

-- same_v1 --
-- Whether a row is the tenant's: the policies ask this of each row before anything else.
-- PostgreSQL may evaluate a condition of the caller's before a policy, if its functions are leakproof and cheap. That
-- shows no row, but a sub-select inside of it runs, or not, as others' rows will have it: enough to guess every value of
-- every tenant. Conditions are ordered by cost, and among equals the policy's come first; so this one costs nothing. An
-- equality that the planner knows as such would be moved to the end; this is the same function under another name.
CREATE OR REPLACE FUNCTION tenantry.same_v1({{left}}, {{right}}) RETURNS boolean
LANGUAGE internal IMMUTABLE STRICT PARALLEL SAFE AS '{{equality}}';
UPDATE pg_catalog.pg_proc SET procost = 0 WHERE oid = 'tenantry.same_v1({{left}}, {{right}})'::pg_catalog.regprocedure;

-- same --
-- As an operator, because only an operator can say how many rows it lets through: all that the equality beside it does.
-- nlikesel says so of anything it can't look into (and wants a negator, which nobody makes). Where no superuser is at
-- hand, the function is PostgreSQL's own: as cheap as the cheapest comparison, so that only tests of NULL and bare
-- booleans, which PostgreSQL takes as free, still come before it.
CREATE OPERATOR tenantry.{{name}} (LEFTARG = {{left}}, RIGHTARG = {{right}}, FUNCTION = {{function}},
                                   RESTRICT = nlikesel, NEGATOR = OPERATOR(tenantry.!{{name}}));
ALTER OPERATOR tenantry.{{name}} ({{left}}, {{right}}) OWNER TO tenantry_sec;

-- bind_v1 --
-- Verify a token and bind its tenant to this transaction. It must be the first statement.
-- "same" says that nobody but this tenant has used the backend since it was last looked through: the caller knows, and
-- whoever says so wrongly harms only those whose tokens he has. Behind a pooler nobody knows.
-- No SET clause: it has to leave search_path set for the transaction. So every name and operator here is qualified, and
-- no part of the token is cast before the code over all of it has been found right.
-- Each transaction pays for every function and operator that stands here, whether it is called or not: few is fast.
CREATE OR REPLACE FUNCTION tenantry.bind_v1(token text, same boolean DEFAULT false) RETURNS bigint
LANGUAGE plpgsql VOLATILE SECURITY DEFINER PARALLEL UNSAFE AS $$
DECLARE
  part pg_catalog.text[] := pg_catalog.string_to_array(token, '.');
  good boolean;
  dirty boolean;
  isolation pg_catalog.text;
  resident_epoch bigint;
  resident_state pg_catalog.text;
  resident_schema pg_catalog.text;
  resident_gate pg_catalog.xid8;
  limits pg_catalog.text[];
  done pg_catalog.text;
BEGIN
  -- Digests are compared, so that the time that it takes tells nothing of a code.
  SELECT pg_catalog.sha256(pg_catalog.convert_to(part[8], 'UTF8')) OPERATOR(pg_catalog.=)
         pg_catalog.sha256(pg_catalog.convert_to(tenantry_priv.hmac_v1(k.ipad, k.opad, pg_catalog.concat(
           pg_catalog.left(token, -65), '|', pg_catalog.current_database(), '|', session_user)), 'UTF8')),
         r.epoch, r.state, r.schema, r.gate, p.limits,
         pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0::pg_catalog.oid
           OR pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none',
         pg_catalog.current_setting('default_transaction_isolation')
    INTO good, resident_epoch, resident_state, resident_schema, resident_gate, limits, dirty, isolation
    FROM tenantry_priv.signing_keys k
    LEFT JOIN tenantry.residents r ON r.code OPERATOR(pg_catalog.=) part[3]
    LEFT JOIN tenantry.plans p ON p.name OPERATOR(pg_catalog.=) r.plan
   WHERE k.kid OPERATOR(pg_catalog.=) part[2] AND pg_catalog.now() OPERATOR(pg_catalog.<) k.not_after;
  -- Assignments, not PERFORM: a simple expression needs no query of its own.
  -- now() is the start of the transaction: a token does not expire in its middle; pid 0 is any backend.
  good := CASE WHEN good AND part[1] OPERATOR(pg_catalog.=) '1' THEN
      pg_catalog.date_part('epoch', pg_catalog.now()) OPERATOR(pg_catalog.<) part[4]::pg_catalog.float8
      AND (part[5] OPERATOR(pg_catalog.=) '0'
           OR part[5] OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()::pg_catalog.text)
    END;
  IF (good AND resident_state OPERATOR(pg_catalog.=) 'open'
      AND (part[7] OPERATOR(pg_catalog.=) '0' OR part[7] OPERATOR(pg_catalog.=) resident_epoch::pg_catalog.text)
      AND tenantry_priv.bound_v1() OPERATOR(pg_catalog.=) ANY (ARRAY['', part[3]])) IS NOT TRUE THEN
    IF good IS NOT TRUE THEN
      RAISE EXCEPTION USING ERRCODE = '42501',
        MESSAGE = 'tenantry: the tenant token is missing, malformed, expired or not valid for this session';
    END IF;
    IF tenantry_priv.bound_v1() OPERATOR(pg_catalog.<>) ALL (ARRAY['', part[3]]) THEN
      RAISE EXCEPTION USING ERRCODE = '25001',
        MESSAGE = 'tenantry: this transaction is already bound to another tenant';
    END IF;
    IF (part[7] OPERATOR(pg_catalog.=) '0'
        OR part[7] OPERATOR(pg_catalog.=) resident_epoch::pg_catalog.text) IS NOT TRUE THEN
      resident_state := 'moved';
    END IF;
    IF resident_state OPERATOR(pg_catalog.=) 'suspended' THEN
      RAISE EXCEPTION USING ERRCODE = 'TN002', MESSAGE = 'tenantry: the tenant is suspended';
    END IF;
    -- A move is about to close the door. It does so in a transaction, the gate, that waits for all who hold this lock;
    -- who comes later waits here for the gate to end. Whether it has been committed can be asked whatever the own
    -- snapshot is, and not so what the resident's row says by now. A standby knows nothing of these locks.
    IF resident_state OPERATOR(pg_catalog.=) 'closing' AND NOT pg_catalog.pg_is_in_recovery() THEN
      PERFORM pg_catalog.pg_advisory_xact_lock_shared(
        pg_catalog.hashtextextended(pg_catalog.concat('tenantry door ', part[3]), 0));
      IF pg_catalog.pg_xact_status(resident_gate) OPERATOR(pg_catalog.<>) 'committed' THEN
        resident_state := 'open';
      END IF;
    END IF;
    IF resident_state OPERATOR(pg_catalog.=) 'open' IS NOT TRUE THEN
      RAISE EXCEPTION USING ERRCODE = 'TN001', MESSAGE = 'tenantry: the tenant does not live here at this epoch';
    END IF;
  END IF;
  RESET ALL;
  IF same IS NOT TRUE THEN
    -- What SQL in an earlier transaction may have left on this pooled backend. Prepared statements that drivers make by
    -- the protocol have from_sql = false and pass.
    dirty := dirty
      OR EXISTS (SELECT FROM pg_catalog.pg_prepared_statement() s WHERE s.from_sql)
      OR EXISTS (SELECT FROM pg_catalog.pg_cursor() c WHERE c.is_holdable);
    -- What the last tenant could still predict, read or hear.
    DISCARD SEQUENCES;
    UNLISTEN *;
    done := pg_catalog.concat(pg_catalog.setseed(
      pg_catalog.hashtextextended(pg_catalog.gen_random_uuid()::pg_catalog.text, 0)::float8
        OPERATOR(pg_catalog./) 9223372036854775808::float8));
  END IF;
  -- A planted default_transaction_isolation holds for this transaction already, and can't be undone from inside.
  IF dirty OR isolation OPERATOR(pg_catalog.<>) pg_catalog.current_setting('default_transaction_isolation') THEN
    RAISE EXCEPTION USING ERRCODE = 'TN003',
      MESSAGE = 'tenantry: the backend carries prepared statements, cursors, temporary objects, a role or a transaction'
                ' isolation that SQL has left behind',
      HINT = 'Discard this connection.';
  END IF;
  done := pg_catalog.set_config('search_path',
                                pg_catalog.concat(pg_catalog.quote_ident(resident_schema), ', pg_temp'), true);
  FOR n IN 1 .. pg_catalog.cardinality(limits) BY 2 LOOP
    done := pg_catalog.set_config(limits[n], limits[n OPERATOR(pg_catalog.+) 1], true);
  END LOOP;
  done := tenantry_priv.seal_v1(part[3]);
  IF part[6] OPERATOR(pg_catalog.=) 'ro' THEN
    done := pg_catalog.set_config('transaction_read_only', 'on', true);
  END IF;
  RETURN resident_epoch;
END $$;

-- caught_up_v1 --
-- On a replica, before the binding: whether it has replayed what the transaction must see; if not, after how many
-- milliseconds it still has not. A snapshot that lasts longer than a statement was taken before this could look.
-- No SET clause, which would cost as much as all the rest: so every name and operator here is qualified.
CREATE OR REPLACE FUNCTION tenantry.caught_up_v1(lsn pg_lsn, patience integer) RETURNS boolean
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE AS $$
DECLARE
  until pg_catalog.timestamptz;
  pause pg_catalog.float8 := 0.0005;
BEGIN
  IF NOT pg_catalog.pg_is_in_recovery() THEN
    RAISE EXCEPTION USING ERRCODE = 'TN005', MESSAGE = 'tenantry: the server is no replica (any more)';
  END IF;
  IF pg_catalog.current_setting('transaction_isolation') OPERATOR(pg_catalog.<>) 'read committed' THEN
    RAISE EXCEPTION USING ERRCODE = 'TN004', MESSAGE = 'tenantry: a replica is read statement by statement only';
  END IF;
  WHILE pg_catalog.pg_last_wal_replay_lsn() OPERATOR(pg_catalog.<) lsn LOOP
    until := coalesce(until, pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+)
                             pg_catalog.make_interval(secs => patience OPERATOR(pg_catalog./) 1000.0::pg_catalog.float8));
    IF pg_catalog.clock_timestamp() OPERATOR(pg_catalog.>=) until THEN
      RAISE EXCEPTION USING ERRCODE = 'TN004', MESSAGE = 'tenantry: the replica has not replayed what is to be read';
    END IF;
    PERFORM pg_catalog.pg_sleep(pause);
    pause := least(pause OPERATOR(pg_catalog.*) 2::pg_catalog.float8, 0.02::pg_catalog.float8);
  END LOOP;
  RETURN true;
END $$;

-- sealed_bound_v1 --
-- The code that this transaction is bound to, or ''. A value without the prefix (a superuser's own) binds nobody.
CREATE OR REPLACE FUNCTION tenantry_priv.bound_v1() RETURNS text
LANGUAGE sql STABLE
RETURN split_part(current_setting('backtrace_functions'), 'tenantry_', 2);

-- sealed_seal_v1 --
CREATE OR REPLACE FUNCTION tenantry_priv.seal_v1(code text) RETURNS text
LANGUAGE sql VOLATILE
RETURN set_config('backtrace_functions', concat('tenantry_', code), true);

-- sealed_current_tenant_v1 --
-- A body in standard SQL is parsed when it is made, so the caller's search_path can't reach it, and the planner inlines it.
CREATE OR REPLACE FUNCTION tenantry.current_tenant_v1() RETURNS {{key_type}}
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce({{decode_sealed}}, tenantry.unbound_v1());

-- signed_bound_v1 --
-- The seal carries the transaction's start: a copy of it is worth nothing in any other transaction.
CREATE OR REPLACE FUNCTION tenantry_priv.bound_v1() RETURNS text
LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
  seal pg_catalog.text := pg_catalog.current_setting('tenantry.seal', true);
  code pg_catalog.text := pg_catalog.split_part(seal, '.', 1);
  good boolean;
BEGIN
  IF seal IS NULL OR seal OPERATOR(pg_catalog.=) '' THEN
    RETURN '';
  END IF;
  SELECT pg_catalog.sha256(pg_catalog.convert_to(tenantry_priv.hmac_v1(k.ipad, k.opad, tenantry_priv.claim_v1(code)), 'UTF8'))
         OPERATOR(pg_catalog.=) pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.split_part(seal, '.', 2), 'UTF8'))
    INTO good FROM tenantry_priv.seal_key k;
  RETURN CASE WHEN good THEN code ELSE '' END;
END $$;

-- signed_claim_v1 --
CREATE OR REPLACE FUNCTION tenantry_priv.claim_v1(code text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN concat(code, '|', extract(epoch FROM now())::text, '|', current_database(), '|', session_user);

-- signed_seal_v1 --
CREATE OR REPLACE FUNCTION tenantry_priv.seal_v1(code text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
  seal pg_catalog.text;
BEGIN
  SELECT pg_catalog.set_config('tenantry.seal', pg_catalog.concat(code, '.',
           tenantry_priv.hmac_v1(k.ipad, k.opad, tenantry_priv.claim_v1(code))), true)
    INTO seal FROM tenantry_priv.seal_key k;
  IF seal IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = '55000', MESSAGE = 'tenantry: this database has no seal key',
      HINT = 'Run: tenantry perimeter apply';
  END IF;
  RETURN seal;
END $$;

-- signed_current_tenant_v1 --
CREATE OR REPLACE FUNCTION tenantry.current_tenant_v1() RETURNS {{key_type}}
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE AS $$
DECLARE
  code pg_catalog.text := tenantry_priv.bound_v1();
BEGIN
  IF code OPERATOR(pg_catalog.=) '' THEN
    RETURN tenantry.unbound_v1();
  END IF;
  RETURN {{decode_code}};
END $$;
