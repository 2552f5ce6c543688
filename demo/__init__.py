"""A small SaaS for advertising analytics, and the show that puts it behind the wall: ``python -m demo``.

The application itself is ``models``, ``queries``, ``charts``, ``pages``, ``api`` and ``app``: nothing in there
filters by tenant or knows at which level a tenant lives. Everything else sets the stage.
"""
