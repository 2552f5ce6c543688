"""The tenants of django-tenants, as its documentation has them."""
