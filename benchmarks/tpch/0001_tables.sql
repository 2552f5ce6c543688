CREATE TABLE region (
  tenant_id bigint NOT NULL, r_regionkey int NOT NULL, r_name text NOT NULL, r_comment text,
  PRIMARY KEY (tenant_id, r_regionkey)
);
CREATE TABLE nation (
  tenant_id bigint NOT NULL, n_nationkey int NOT NULL, n_name text NOT NULL, n_regionkey int NOT NULL, n_comment text,
  PRIMARY KEY (tenant_id, n_nationkey)
);
CREATE TABLE supplier (
  tenant_id bigint NOT NULL, s_suppkey int NOT NULL, s_name text NOT NULL, s_address text NOT NULL, s_nationkey int NOT NULL,
  s_phone text NOT NULL, s_acctbal numeric NOT NULL, s_comment text NOT NULL,
  PRIMARY KEY (tenant_id, s_suppkey)
);
CREATE TABLE part (
  tenant_id bigint NOT NULL, p_partkey int NOT NULL, p_name text NOT NULL, p_mfgr text NOT NULL, p_brand text NOT NULL,
  p_type text NOT NULL, p_size int NOT NULL, p_container text NOT NULL, p_retailprice numeric NOT NULL, p_comment text NOT NULL,
  PRIMARY KEY (tenant_id, p_partkey)
);
CREATE TABLE partsupp (
  tenant_id bigint NOT NULL, ps_partkey int NOT NULL, ps_suppkey int NOT NULL, ps_availqty int NOT NULL,
  ps_supplycost numeric NOT NULL, ps_comment text NOT NULL,
  PRIMARY KEY (tenant_id, ps_partkey, ps_suppkey)
);
CREATE TABLE customer (
  tenant_id bigint NOT NULL, c_custkey int NOT NULL, c_name text NOT NULL, c_address text NOT NULL, c_nationkey int NOT NULL,
  c_phone text NOT NULL, c_acctbal numeric NOT NULL, c_mktsegment text NOT NULL, c_comment text NOT NULL,
  PRIMARY KEY (tenant_id, c_custkey)
);
CREATE TABLE orders (
  tenant_id bigint NOT NULL, o_orderkey int NOT NULL, o_custkey int NOT NULL, o_orderstatus text NOT NULL,
  o_totalprice numeric NOT NULL, o_orderdate date NOT NULL, o_orderpriority text NOT NULL, o_clerk text NOT NULL,
  o_shippriority int NOT NULL, o_comment text NOT NULL,
  PRIMARY KEY (tenant_id, o_orderkey)
);
CREATE TABLE lineitem (
  tenant_id bigint NOT NULL, l_orderkey int NOT NULL, l_partkey int NOT NULL, l_suppkey int NOT NULL, l_linenumber int NOT NULL,
  l_quantity numeric NOT NULL, l_extendedprice numeric NOT NULL, l_discount numeric NOT NULL, l_tax numeric NOT NULL,
  l_returnflag text NOT NULL, l_linestatus text NOT NULL, l_shipdate date NOT NULL, l_commitdate date NOT NULL,
  l_receiptdate date NOT NULL, l_shipinstruct text NOT NULL, l_shipmode text NOT NULL, l_comment text NOT NULL,
  PRIMARY KEY (tenant_id, l_orderkey, l_linenumber)
);
CREATE INDEX orders_by_customer ON orders (tenant_id, o_custkey);
CREATE INDEX orders_by_date ON orders (tenant_id, o_orderdate);
CREATE INDEX lineitem_by_part ON lineitem (tenant_id, l_partkey, l_suppkey);
CREATE INDEX lineitem_by_date ON lineitem (tenant_id, l_shipdate);
