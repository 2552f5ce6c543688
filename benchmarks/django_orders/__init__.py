"""The application's table, as django-tenants makes it in each schema."""
