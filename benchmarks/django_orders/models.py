"""What the template's orders are, without a tenant column: the schema is the tenant's."""

from __future__ import annotations

from django.db import models


class Order(models.Model):  # type: ignore[misc]
    """An order."""

    note = models.TextField()
