"""PostgreSQL as this house uses it: connections, versions, named SQL files, numbered migrations, the local server."""
