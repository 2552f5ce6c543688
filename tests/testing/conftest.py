"""The example is an application with tests of its own: they run in a process of their own, and not among ours."""

collect_ignore = ["example"]
