"""The `thoraq-admin` command: for operators, directly on the database and the store."""
