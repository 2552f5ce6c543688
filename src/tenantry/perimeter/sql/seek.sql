-- The functions of perimeter/seek.py. Names in double braces are filled in for each.

-- seek --
CREATE OR REPLACE FUNCTION {{name}}(sought {{argument}}) RETURNS tid[]
LANGUAGE plpgsql STABLE SECURITY DEFINER PARALLEL SAFE
SET search_path = pg_catalog, pg_temp SET plan_cache_mode = {{plan}} AS $seek$
#variable_conflict use_variable
DECLARE
  bound {{key_type}} := tenantry.current_tenant_v1();
  value {{type}} := sought;
BEGIN
  {{check}}
  {{own}}
  RETURN ({{select}});
END $seek$;

-- pattern --
-- PostgreSQL complains of such a pattern only when a row gets it as far as its end: the rows of others must not.
  IF right(sought, 1) = '\' AND length(substring(sought FROM '\\*$')) % 2 = 1 THEN
    RAISE EXCEPTION USING ERRCODE = '22025', MESSAGE = 'LIKE pattern must not end with escape character';
  END IF;

-- own --
  IF bound = {{key}} THEN
    RETURN ({{select}});
  END IF;

-- select --
SELECT array_agg(r.ctid) FROM {{table}} r
           WHERE {{guard}} AND {{mine}} AND {{column}} {{operator}} value
