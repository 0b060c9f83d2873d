"""What /openapi.json needs beyond the types of the routes."""
