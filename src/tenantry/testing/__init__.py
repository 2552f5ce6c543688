"""A pytest plugin for applications: a house of their own, two tenants, and ``assert_no_leak``.

pytest imports this package wherever Tenantry is installed, so it imports nothing until a fixture is asked for. See
``docs/howto/test-your-application.md``.
"""
