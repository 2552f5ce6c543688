-- A table with a column for each kind of seek, and rows of two tenants.

-- table --
CREATE EXTENSION IF NOT EXISTS btree_gin SCHEMA public;
CREATE EXTENSION IF NOT EXISTS pg_trgm SCHEMA public;
CREATE EXTENSION IF NOT EXISTS citext SCHEMA public;
CREATE TYPE app.mood AS ENUM ('sad', 'ok');
CREATE TABLE app.memos (
  company_id bigint NOT NULL,
  id         bigint GENERATED ALWAYS AS IDENTITY,
  note       text,
  email      public.citext,
  body       tsvector,
  doc        jsonb,
  tags       int[],
  mood       app.mood,
  amount     numeric,
  at         timestamptz DEFAULT now(),
  PRIMARY KEY (company_id, id)
);

-- indexes --
CREATE INDEX memos_words_seek ON app.memos USING gin (company_id, note public.gin_trgm_ops, doc, body, tags);
CREATE INDEX memos_email_seek ON app.memos (company_id, email public.citext_ops, mood);
CREATE INDEX memos_mood_seek ON app.memos (company_id, mood);
CREATE INDEX memos_citext_seek ON app.memos USING gin (company_id, email public.gin_trgm_ops);
CREATE INDEX memos_amount_seek ON app.memos (company_id, amount);
CREATE INDEX memos_at_seek ON app.memos (company_id, at);

-- rows --
INSERT INTO app.memos (company_id, note, email, body, doc, tags, mood)
SELECT k, CASE n % 9 WHEN 0 THEN NULL ELSE concat(chr(97 + n % 3), 'bc', n, '%') END, concat('User', n % 20, '@Example.com'),
       to_tsvector('simple', (ARRAY['one two', 'two one', 'three', 'one x two'])[1 + n % 4]),
       (ARRAY['{"k": 1, "n": {"z": [1, 2]}}', '{"k": 2}', '[1]', NULL])[1 + n % 4]::jsonb, ARRAY[n % 4, n % 7],
       (ARRAY['sad', 'ok'])[1 + n % 2]::app.mood
  FROM generate_series(1, 140) AS n, unnest(ARRAY[{a}, {b}]) AS k;
ANALYZE app.memos;
