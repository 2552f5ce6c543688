-- What a migration adds where extensions are, and the rows of the benchmark "traps". Tenant 3 has an index of its own
-- for each trap, as DBAs give to who has much; the others share one.

-- columns --
CREATE EXTENSION pg_trgm;
CREATE EXTENSION btree_gin;
CREATE EXTENSION citext;
ALTER TABLE notes ADD COLUMN email citext NOT NULL DEFAULT '';

-- indexes --
CREATE INDEX notes_email_seek ON notes (tenant_id, email);
CREATE INDEX notes_mood_seek ON notes (tenant_id, mood);
CREATE INDEX notes_words_seek ON notes USING gin
  (tenant_id, note gin_trgm_ops, tags, doc jsonb_path_ops, body);
CREATE INDEX notes_note_3_seek ON notes USING gin (tenant_id, note gin_trgm_ops) WHERE tenant_id = 3;
CREATE INDEX notes_tags_3_seek ON notes USING gin (tenant_id, tags) WHERE tenant_id = 3;
CREATE INDEX notes_doc_3_seek ON notes USING gin (tenant_id, doc jsonb_path_ops) WHERE tenant_id = 3;
CREATE INDEX notes_body_3_seek ON notes USING gin (tenant_id, body) WHERE tenant_id = 3;
VACUUM ANALYZE;

-- rows --
INSERT INTO notes (tenant_id, id, note, mood, tags, doc, body, email)
SELECT CASE WHEN n % 5 < 3 THEN 3 ELSE 1 + n * 7 % 100 END, n, concat(md5(n::text), ' ', md5((n * 31)::text)),
       (CASE WHEN n % 400 = 0 THEN 'rare' WHEN n % 2 = 0 THEN 'ok' ELSE 'happy' END)::mood,
       ARRAY[n % 1500, n % 777, n % 10], jsonb_build_object('k', n % 1500, 'n', jsonb_build_object('z', n % 10)),
       to_tsvector('simple', concat('w', n % 1500, ' v', n % 10, ' x', n % 77)), concat('User', n % 1500, '@Example.com')
  FROM generate_series(1, 500000) AS n;
INSERT INTO parts_32 SELECT 1 + n % 100, n, md5(n::text) FROM generate_series(1, 100000) AS n;
INSERT INTO parts_256 SELECT * FROM parts_32;
