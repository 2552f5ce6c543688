"""One tenant's rows as a consistent snapshot, followed by its changes in commit order."""
