"""What every route needs, and nothing about studies: keys, requests, errors, OpenAPI, services."""
