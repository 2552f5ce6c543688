-- The residents and locks of a door. Keep in step with bind_v1, which takes the same lock.

-- shut --
-- A door that somebody has left half closed is closed anew; suspended tenants need none.
UPDATE tenantry.residents SET state = CASE state WHEN 'suspended' THEN state ELSE 'closing' END, gate = %(xid)s::xid8
 WHERE code = ANY (%(codes)s) AND state IN ('open', 'closing', 'suspended') RETURNING code

-- inside --
-- A transaction holds a lock on its virtual id until it ends (pg_locks); one that is prepared has no such id any more.
-- Whoever holds a lock of this door is waited for by that.
SELECT l.virtualtransaction FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
 WHERE l.locktype = 'virtualxid' AND l.mode = 'ExclusiveLock' AND l.granted AND a.datname = current_database()
   AND a.usename IS NOT NULL AND a.application_name <> current_setting('application_name')
   AND NOT EXISTS (
     SELECT FROM pg_locks d JOIN unnest(%(codes)s::text[]) AS code
         ON d.locktype = 'advisory' AND d.objsubid = 1 AND d.granted
            AND (d.classid::int8 << 32) + d.objid::int8 = hashtextextended(concat('tenantry door ', code), 0)
      WHERE d.pid = l.pid)
 UNION ALL
SELECT 'prepared ' || gid FROM pg_prepared_xacts WHERE database = current_database()

-- lock --
SELECT pg_advisory_xact_lock(hashtextextended(concat('tenantry door ', code), 0)) FROM unnest(%(codes)s::text[]) AS code

-- leave --
UPDATE tenantry.residents SET state = 'moved', gate = NULL WHERE code = ANY (%(codes)s)

-- enter --
UPDATE tenantry.residents SET state = CASE state WHEN 'closing' THEN 'open' ELSE state END, gate = NULL,
       schema = %(schema)s, epoch = epoch + 1
 WHERE code = ANY (%(codes)s)

-- reopen --
UPDATE tenantry.residents SET state = CASE state WHEN 'closing' THEN 'open' ELSE state END, gate = NULL
 WHERE code = ANY (%(codes)s) AND gate IS NOT NULL AND (%(xid)s::xid8 IS NULL OR gate = %(xid)s::xid8)
