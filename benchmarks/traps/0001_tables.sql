CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy', 'rare');
CREATE TABLE notes (
  tenant_id bigint NOT NULL,
  id        bigint NOT NULL,
  note      text NOT NULL,
  mood      mood NOT NULL,
  tags      int[] NOT NULL,
  doc       jsonb NOT NULL,
  body      tsvector NOT NULL,
  PRIMARY KEY (tenant_id, id)
);
CREATE TABLE parts_32 (tenant_id bigint NOT NULL, id bigint NOT NULL, note text NOT NULL, PRIMARY KEY (tenant_id, id))
  PARTITION BY HASH (tenant_id);
CREATE TABLE parts_256 (tenant_id bigint NOT NULL, id bigint NOT NULL, note text NOT NULL, PRIMARY KEY (tenant_id, id))
  PARTITION BY HASH (tenant_id);
DO $$ BEGIN
  FOR n IN 0..31 LOOP
    EXECUTE format('CREATE TABLE parts_32_%s PARTITION OF parts_32 FOR VALUES WITH (MODULUS 32, REMAINDER %1$s)', n);
  END LOOP;
  FOR n IN 0..255 LOOP
    EXECUTE format('CREATE TABLE parts_256_%s PARTITION OF parts_256 FOR VALUES WITH (MODULUS 256, REMAINDER %1$s)', n);
  END LOOP;
END $$;
