"""The verbs, one file per noun. CLI, API and console are thin faces of these functions."""
