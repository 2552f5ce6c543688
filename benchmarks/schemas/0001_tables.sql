CREATE TABLE customers (
  tenant_id bigint NOT NULL,
  id        bigint NOT NULL,
  name      text NOT NULL,
  PRIMARY KEY (tenant_id, id)
);
CREATE TABLE orders (
  tenant_id   bigint NOT NULL,
  id          bigint NOT NULL,
  customer_id bigint NOT NULL,
  state       text NOT NULL,
  PRIMARY KEY (tenant_id, id),
  FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id)
);
CREATE INDEX ON orders (tenant_id, customer_id);
CREATE TABLE products (
  tenant_id bigint NOT NULL,
  id        bigint NOT NULL,
  name      text NOT NULL,
  price     numeric NOT NULL,
  PRIMARY KEY (tenant_id, id)
);
CREATE TABLE items (
  tenant_id  bigint NOT NULL,
  order_id   bigint NOT NULL,
  product_id bigint NOT NULL,
  quantity   int NOT NULL,
  PRIMARY KEY (tenant_id, order_id, product_id),
  FOREIGN KEY (tenant_id, order_id) REFERENCES orders (tenant_id, id),
  FOREIGN KEY (tenant_id, product_id) REFERENCES products (tenant_id, id)
);
CREATE INDEX ON items (tenant_id, product_id);
CREATE TABLE payments (
  tenant_id bigint NOT NULL,
  id        bigint NOT NULL,
  order_id  bigint NOT NULL,
  amount    numeric NOT NULL,
  PRIMARY KEY (tenant_id, id),
  FOREIGN KEY (tenant_id, order_id) REFERENCES orders (tenant_id, id)
);
CREATE INDEX ON payments (tenant_id, order_id);
CREATE TABLE notes (
  tenant_id   bigint NOT NULL,
  id          bigint NOT NULL,
  customer_id bigint NOT NULL,
  body        text NOT NULL,
  PRIMARY KEY (tenant_id, id),
  FOREIGN KEY (tenant_id, customer_id) REFERENCES customers (tenant_id, id)
);
CREATE INDEX ON notes (tenant_id, customer_id);
