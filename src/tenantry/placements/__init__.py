"""Placements: how the homes of tenants are built, kept ready and cleared, one file for each level of isolation."""
