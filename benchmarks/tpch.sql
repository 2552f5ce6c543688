-- The 22 queries of TPC-H (TPC Benchmark H, revision 3.0.1, chapter 2) with their validation parameters. Where a table
-- is read, /*t alias*/ becomes its predicate on the tenant, or nothing where policies say it.

-- q1 --
SELECT l_returnflag, l_linestatus, sum(l_quantity), sum(l_extendedprice), sum(l_extendedprice * (1 - l_discount)),
       sum(l_extendedprice * (1 - l_discount) * (1 + l_tax)), avg(l_quantity), avg(l_extendedprice), avg(l_discount), count(*)
  FROM lineitem l WHERE l_shipdate <= date '1998-12-01' - interval '90 days' /*t l*/
 GROUP BY 1, 2 ORDER BY 1, 2

-- q2 --
SELECT s_acctbal, s_name, n_name, p_partkey, p_mfgr, s_address, s_phone, s_comment
  FROM part p, supplier s, partsupp ps, nation n, region r
 WHERE p_partkey = ps_partkey AND s_suppkey = ps_suppkey AND p_size = 15 AND p_type LIKE '%BRASS' AND s_nationkey = n_nationkey
   AND n_regionkey = r_regionkey AND r_name = 'EUROPE' /*t p*/ /*t s*/ /*t ps*/ /*t n*/ /*t r*/
   AND ps_supplycost = (SELECT min(ps2.ps_supplycost) FROM partsupp ps2, supplier s2, nation n2, region r2
                         WHERE p.p_partkey = ps2.ps_partkey AND s2.s_suppkey = ps2.ps_suppkey AND s2.s_nationkey = n2.n_nationkey
                           AND n2.n_regionkey = r2.r_regionkey AND r2.r_name = 'EUROPE' /*t ps2*/ /*t s2*/ /*t n2*/ /*t r2*/)
 ORDER BY s_acctbal DESC, n_name, s_name, p_partkey LIMIT 100

-- q3 --
SELECT l_orderkey, sum(l_extendedprice * (1 - l_discount)) AS revenue, o_orderdate, o_shippriority
  FROM customer c, orders o, lineitem l
 WHERE c_mktsegment = 'BUILDING' AND c_custkey = o_custkey AND l_orderkey = o_orderkey AND o_orderdate < date '1995-03-15'
   AND l_shipdate > date '1995-03-15' /*t c*/ /*t o*/ /*t l*/
 GROUP BY l_orderkey, o_orderdate, o_shippriority ORDER BY revenue DESC, o_orderdate, l_orderkey LIMIT 10

-- q4 --
SELECT o_orderpriority, count(*) FROM orders o
 WHERE o_orderdate >= date '1993-07-01' AND o_orderdate < date '1993-10-01' /*t o*/
   AND EXISTS (SELECT FROM lineitem l WHERE l_orderkey = o_orderkey AND l_commitdate < l_receiptdate /*t l*/)
 GROUP BY 1 ORDER BY 1

-- q5 --
SELECT n_name, sum(l_extendedprice * (1 - l_discount)) AS revenue
  FROM customer c, orders o, lineitem l, supplier s, nation n, region r
 WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND l_suppkey = s_suppkey AND c_nationkey = s_nationkey
   AND s_nationkey = n_nationkey AND n_regionkey = r_regionkey AND r_name = 'ASIA' AND o_orderdate >= date '1994-01-01'
   AND o_orderdate < date '1995-01-01' /*t c*/ /*t o*/ /*t l*/ /*t s*/ /*t n*/ /*t r*/
 GROUP BY 1 ORDER BY 2 DESC, 1

-- q6 --
SELECT sum(l_extendedprice * l_discount) FROM lineitem l
 WHERE l_shipdate >= date '1994-01-01' AND l_shipdate < date '1995-01-01' AND l_discount BETWEEN 0.05 AND 0.07 AND l_quantity < 24
   /*t l*/

-- q7 --
SELECT n1.n_name, n2.n_name, extract(year FROM l_shipdate), sum(l_extendedprice * (1 - l_discount))
  FROM supplier s, lineitem l, orders o, customer c, nation n1, nation n2
 WHERE s_suppkey = l_suppkey AND o_orderkey = l_orderkey AND c_custkey = o_custkey AND s_nationkey = n1.n_nationkey
   AND c_nationkey = n2.n_nationkey AND ((n1.n_name = 'FRANCE' AND n2.n_name = 'GERMANY')
       OR (n1.n_name = 'GERMANY' AND n2.n_name = 'FRANCE')) AND l_shipdate BETWEEN date '1995-01-01' AND date '1996-12-31'
   /*t s*/ /*t l*/ /*t o*/ /*t c*/ /*t n1*/ /*t n2*/
 GROUP BY 1, 2, 3 ORDER BY 1, 2, 3

-- q8 --
SELECT extract(year FROM o_orderdate), sum(CASE WHEN n2.n_name = 'BRAZIL' THEN l_extendedprice * (1 - l_discount) ELSE 0 END)
       / sum(l_extendedprice * (1 - l_discount))
  FROM part p, supplier s, lineitem l, orders o, customer c, nation n1, nation n2, region r
 WHERE p_partkey = l_partkey AND s_suppkey = l_suppkey AND l_orderkey = o_orderkey AND o_custkey = c_custkey
   AND c_nationkey = n1.n_nationkey AND n1.n_regionkey = r_regionkey AND r_name = 'AMERICA' AND s_nationkey = n2.n_nationkey
   AND o_orderdate BETWEEN date '1995-01-01' AND date '1996-12-31' AND p_type = 'ECONOMY ANODIZED STEEL'
   /*t p*/ /*t s*/ /*t l*/ /*t o*/ /*t c*/ /*t n1*/ /*t n2*/ /*t r*/
 GROUP BY 1 ORDER BY 1

-- q9 --
SELECT n_name, extract(year FROM o_orderdate), sum(l_extendedprice * (1 - l_discount) - ps_supplycost * l_quantity)
  FROM part p, supplier s, lineitem l, partsupp ps, orders o, nation n
 WHERE s_suppkey = l_suppkey AND ps_suppkey = l_suppkey AND ps_partkey = l_partkey AND p_partkey = l_partkey
   AND o_orderkey = l_orderkey AND s_nationkey = n_nationkey AND p_name LIKE '%green%'
   /*t p*/ /*t s*/ /*t l*/ /*t ps*/ /*t o*/ /*t n*/
 GROUP BY 1, 2 ORDER BY 1, 2 DESC

-- q10 --
SELECT c_custkey, c_name, sum(l_extendedprice * (1 - l_discount)) AS revenue, c_acctbal, n_name, c_address, c_phone, c_comment
  FROM customer c, orders o, lineitem l, nation n
 WHERE c_custkey = o_custkey AND l_orderkey = o_orderkey AND o_orderdate >= date '1993-10-01' AND o_orderdate < date '1994-01-01'
   AND l_returnflag = 'R' AND c_nationkey = n_nationkey /*t c*/ /*t o*/ /*t l*/ /*t n*/
 GROUP BY c_custkey, c_name, c_acctbal, c_phone, n_name, c_address, c_comment ORDER BY revenue DESC, c_custkey LIMIT 20

-- q11 --
SELECT ps_partkey, sum(ps_supplycost * ps_availqty) AS value FROM partsupp ps, supplier s, nation n
 WHERE ps_suppkey = s_suppkey AND s_nationkey = n_nationkey AND n_name = 'GERMANY' /*t ps*/ /*t s*/ /*t n*/
 GROUP BY 1 HAVING sum(ps_supplycost * ps_availqty) > (
   SELECT sum(ps2.ps_supplycost * ps2.ps_availqty) * 0.01 FROM partsupp ps2, supplier s2, nation n2
    WHERE ps2.ps_suppkey = s2.s_suppkey AND s2.s_nationkey = n2.n_nationkey AND n2.n_name = 'GERMANY' /*t ps2*/ /*t s2*/ /*t n2*/)
 ORDER BY value DESC, 1

-- q12 --
SELECT l_shipmode, sum(CASE WHEN o_orderpriority IN ('1-URGENT', '2-HIGH') THEN 1 ELSE 0 END),
       sum(CASE WHEN o_orderpriority NOT IN ('1-URGENT', '2-HIGH') THEN 1 ELSE 0 END)
  FROM orders o, lineitem l
 WHERE o_orderkey = l_orderkey AND l_shipmode IN ('MAIL', 'SHIP') AND l_commitdate < l_receiptdate AND l_shipdate < l_commitdate
   AND l_receiptdate >= date '1994-01-01' AND l_receiptdate < date '1995-01-01' /*t o*/ /*t l*/
 GROUP BY 1 ORDER BY 1

-- q13 --
SELECT c_count, count(*) FROM (
  SELECT c_custkey, count(o_orderkey) AS c_count
    FROM customer c LEFT JOIN orders o ON c_custkey = o_custkey AND o_comment NOT LIKE '%special%requests%' /*t o*/
   WHERE true /*t c*/ GROUP BY 1) counted
 GROUP BY 1 ORDER BY 2 DESC, 1 DESC

-- q14 --
SELECT 100.00 * sum(CASE WHEN p_type LIKE 'PROMO%' THEN l_extendedprice * (1 - l_discount) ELSE 0 END)
       / sum(l_extendedprice * (1 - l_discount))
  FROM lineitem l, part p
 WHERE l_partkey = p_partkey AND l_shipdate >= date '1995-09-01' AND l_shipdate < date '1995-10-01' /*t l*/ /*t p*/

-- q15 --
WITH revenue AS (
  SELECT l_suppkey AS supplier_no, sum(l_extendedprice * (1 - l_discount)) AS total FROM lineitem l
   WHERE l_shipdate >= date '1996-01-01' AND l_shipdate < date '1996-04-01' /*t l*/ GROUP BY 1)
SELECT s_suppkey, s_name, s_address, s_phone, total FROM supplier s, revenue
 WHERE s_suppkey = supplier_no AND total = (SELECT max(total) FROM revenue) /*t s*/ ORDER BY 1

-- q16 --
SELECT p_brand, p_type, p_size, count(DISTINCT ps_suppkey) FROM partsupp ps, part p
 WHERE p_partkey = ps_partkey AND p_brand <> 'Brand#45' AND p_type NOT LIKE 'MEDIUM POLISHED%'
   AND p_size IN (49, 14, 23, 45, 19, 3, 36, 9) /*t ps*/ /*t p*/
   AND ps_suppkey NOT IN (SELECT s_suppkey FROM supplier s WHERE s_comment LIKE '%Customer%Complaints%' /*t s*/)
 GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3

-- q17 --
SELECT sum(l_extendedprice) / 7.0 FROM lineitem l, part p
 WHERE p_partkey = l_partkey AND p_brand = 'Brand#23' AND p_container = 'MED BOX' /*t l*/ /*t p*/
   AND l_quantity < (SELECT 0.2 * avg(l2.l_quantity) FROM lineitem l2 WHERE l2.l_partkey = p.p_partkey /*t l2*/)

-- q18 --
SELECT c_name, c_custkey, o_orderkey, o_orderdate, o_totalprice, sum(l_quantity) FROM customer c, orders o, lineitem l
 WHERE o_orderkey IN (SELECT l2.l_orderkey FROM lineitem l2 WHERE true /*t l2*/ GROUP BY 1 HAVING sum(l2.l_quantity) > 300)
   AND c_custkey = o_custkey AND o_orderkey = l_orderkey /*t c*/ /*t o*/ /*t l*/
 GROUP BY 1, 2, 3, 4, 5 ORDER BY o_totalprice DESC, o_orderdate, o_orderkey LIMIT 100

-- q19 --
SELECT sum(l_extendedprice * (1 - l_discount)) FROM lineitem l, part p
 WHERE p_partkey = l_partkey AND l_shipmode IN ('AIR', 'AIR REG') AND l_shipinstruct = 'DELIVER IN PERSON' /*t l*/ /*t p*/
   AND ((p_brand = 'Brand#12' AND p_container IN ('SM CASE', 'SM BOX', 'SM PACK', 'SM PKG') AND l_quantity BETWEEN 1 AND 11
         AND p_size BETWEEN 1 AND 5)
     OR (p_brand = 'Brand#23' AND p_container IN ('MED BAG', 'MED BOX', 'MED PKG', 'MED PACK') AND l_quantity BETWEEN 10 AND 20
         AND p_size BETWEEN 1 AND 10)
     OR (p_brand = 'Brand#34' AND p_container IN ('LG CASE', 'LG BOX', 'LG PACK', 'LG PKG') AND l_quantity BETWEEN 20 AND 30
         AND p_size BETWEEN 1 AND 15))

-- q20 --
SELECT s_name, s_address FROM supplier s, nation n
 WHERE s_suppkey IN (
   SELECT ps_suppkey FROM partsupp ps
    WHERE ps_partkey IN (SELECT p_partkey FROM part p WHERE p_name LIKE 'forest%' /*t p*/) /*t ps*/
      AND ps_availqty > (SELECT 0.5 * sum(l_quantity) FROM lineitem l
                          WHERE l_partkey = ps_partkey AND l_suppkey = ps_suppkey AND l_shipdate >= date '1994-01-01'
                            AND l_shipdate < date '1995-01-01' /*t l*/))
   AND s_nationkey = n_nationkey AND n_name = 'CANADA' /*t s*/ /*t n*/ ORDER BY 1

-- q21 --
SELECT s_name, count(*) FROM supplier s, lineitem l1, orders o, nation n
 WHERE s_suppkey = l1.l_suppkey AND o_orderkey = l1.l_orderkey AND o_orderstatus = 'F' AND l1.l_receiptdate > l1.l_commitdate
   AND EXISTS (SELECT FROM lineitem l2 WHERE l2.l_orderkey = l1.l_orderkey AND l2.l_suppkey <> l1.l_suppkey /*t l2*/)
   AND NOT EXISTS (SELECT FROM lineitem l3 WHERE l3.l_orderkey = l1.l_orderkey AND l3.l_suppkey <> l1.l_suppkey
                     AND l3.l_receiptdate > l3.l_commitdate /*t l3*/)
   AND s_nationkey = n_nationkey AND n_name = 'SAUDI ARABIA' /*t s*/ /*t l1*/ /*t o*/ /*t n*/
 GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 100

-- q22 --
SELECT code, count(*), sum(c_acctbal) FROM (
  SELECT substring(c_phone FROM 1 FOR 2) AS code, c_acctbal FROM customer c
   WHERE substring(c_phone FROM 1 FOR 2) IN ('13', '31', '23', '29', '30', '18', '17') /*t c*/
     AND c_acctbal > (SELECT avg(c2.c_acctbal) FROM customer c2 WHERE c2.c_acctbal > 0.00
                         AND substring(c2.c_phone FROM 1 FOR 2) IN ('13', '31', '23', '29', '30', '18', '17') /*t c2*/)
     AND NOT EXISTS (SELECT FROM orders o WHERE o_custkey = c_custkey /*t o*/)) sales
 GROUP BY 1 ORDER BY 1
