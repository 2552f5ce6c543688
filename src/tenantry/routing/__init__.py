"""Routing: where a tenant lives, which pool leads there, and how a transaction is begun there."""
