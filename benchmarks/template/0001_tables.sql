CREATE TABLE orders (
  tenant_id bigint NOT NULL,
  id        bigint NOT NULL,
  note      text NOT NULL,
  PRIMARY KEY (tenant_id, id)
);
