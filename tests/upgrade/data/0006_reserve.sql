INSERT INTO spaces (shard, database, schema, isolation, state, template)
  SELECT name, 'd_reserved', 'public', 'database', 'ready', '0002-x' FROM shards ORDER BY name LIMIT 1;
INSERT INTO reserved (key, space, plan, holder, until)
  SELECT 'r1', id, 'free', NULL, NULL FROM spaces WHERE database = 'd_reserved';
INSERT INTO reserved (key, space, plan, holder, until)
  SELECT 'r2', min(id), 'free', 'tenantry 1 2@host', '2025-02-03 00:00:00+00' FROM spaces WHERE isolation = 'pooled';
