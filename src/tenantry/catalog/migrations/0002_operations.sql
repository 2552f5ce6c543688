-- 'owner' works on it until 'lease_until'; without an owner it goes on at 'resume_at'. 'predecessors' lost their lease.
CREATE TABLE operations (
  id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind         text NOT NULL,
  state        text NOT NULL DEFAULT 'pending'
               CHECK (state IN ('pending', 'running', 'waiting', 'done', 'undoing', 'undone')),
  args         jsonb NOT NULL DEFAULT '{}',
  actor        text NOT NULL,
  step         text,
  attempt      int NOT NULL DEFAULT 0,
  owner        text,
  fence        bigint NOT NULL DEFAULT 0,
  predecessors text[] NOT NULL DEFAULT '{}',
  lease_until  timestamptz,
  resume_at    timestamptz,
  error        jsonb,
  created_at   timestamptz NOT NULL DEFAULT now(),
  finished_at  timestamptz
);
CREATE INDEX operations_open ON operations (id) WHERE state IN ('pending', 'running', 'waiting', 'undoing');

-- One row per finished step; it commits with the catalog rows that the step changes.
CREATE TABLE operation_steps (
  operation bigint NOT NULL REFERENCES operations,
  step      text NOT NULL,
  output    jsonb NOT NULL DEFAULT '{}',
  at        timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (operation, step)
);

-- The tenants of open operations: a tenant has one at a time.
CREATE TABLE operation_tenants (
  tenant    uuid PRIMARY KEY REFERENCES tenants,
  operation bigint NOT NULL REFERENCES operations
);
CREATE INDEX operation_tenants_operation ON operation_tenants (operation);
