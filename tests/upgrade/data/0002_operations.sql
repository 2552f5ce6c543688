INSERT INTO operations (kind, state, args, actor, step, attempt, owner, fence, predecessors, lease_until, error) VALUES
  ('provision', 'done', '{"tenants": ["a0000000-0000-4000-8000-000000000001"]}', 'ada', 'open', 1, NULL, 1, '{}', NULL, NULL),
  ('provision', 'running', '{"tenants": ["a0000000-0000-4000-8000-000000000005"]}', 'ada', 'reserve', 2, 'host:1:x', 3,
   '{host:2:y}', '2025-02-03 00:00:00+00', '{"message": "the shard does not answer"}');
INSERT INTO operation_steps (operation, step, output, at) VALUES
  (1, 'reserve', '{"spaces": [1]}', '2025-02-03 00:00:00+00'), (2, 'reserve', '{}', '2025-02-03 00:00:01+00');
INSERT INTO operation_tenants (tenant, operation) VALUES ('a0000000-0000-4000-8000-000000000005', 2);
