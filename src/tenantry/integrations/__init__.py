"""What an application's own libraries need in order to work for tenants. Each is optional, and none knows another."""
