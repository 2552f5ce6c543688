"""The perimeter: the wall around a tenant inside a database. Roles, grants, policies, the binding."""
