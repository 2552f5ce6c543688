INSERT INTO replicas (shard, name, dsn, created_at)
  SELECT name, 'r1', 'host=replica.example.com', '2025-02-03 00:00:00+00' FROM shards ORDER BY name LIMIT 1;
UPDATE plans SET replica_seconds = 10 WHERE name = 'enterprise';
