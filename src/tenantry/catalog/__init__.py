"""The catalog: the database that knows all tenants, plans, shards, placements and operations."""
