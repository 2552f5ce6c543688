"""django-tenants beside us: what a schema for a new tenant takes there."""

from __future__ import annotations

import importlib
import importlib.util
from itertools import count
from typing import Any

from benchmarks._harness import Side
from tenantry.postgres.connect import parse_dsn

_number = count(1)


def is_there() -> bool:
    """Whether it is installed: ``pip install django-tenants -c constraints.txt``."""
    return importlib.util.find_spec("django_tenants") is not None


def creator(dsn: str) -> Side:
    """A side that creates a tenant with its schema, in a database that is empty."""
    _configure(dsn)
    importlib.import_module("django").setup()
    call: Any = importlib.import_module("django.core.management").call_command
    call("migrate_schemas", shared=True, verbosity=0)
    models: Any = importlib.import_module("benchmarks.django_customers.models")

    def side() -> object:
        name = f"django_{next(_number)}"
        client = models.Client(schema_name=name, name=name)
        client.save(verbosity=0)
        models.Domain.objects.create(domain=f"{name}.example.com", tenant=client, is_primary=True)
        return client.pk

    return side


def _configure(dsn: str) -> None:
    parts = parse_dsn(dsn)
    settings: Any = importlib.import_module("django.conf").settings
    settings.configure(
        DATABASES={
            "default": {
                "ENGINE": "django_tenants.postgresql_backend",
                "NAME": parts["dbname"],
                "USER": parts["user"],
                "HOST": parts["host"],
                "PORT": parts["port"],
            }
        },
        DATABASE_ROUTERS=("django_tenants.routers.TenantSyncRouter",),
        SHARED_APPS=("django_tenants", "django.contrib.contenttypes", "benchmarks.django_customers"),
        TENANT_APPS=("benchmarks.django_orders",),
        INSTALLED_APPS=(
            "django_tenants",
            "django.contrib.contenttypes",
            "benchmarks.django_customers",
            "benchmarks.django_orders",
        ),
        TENANT_MODEL="django_customers.Client",
        TENANT_DOMAIN_MODEL="django_customers.Domain",
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        USE_TZ=True,
        LOGGING_CONFIG=None,
    )
