"""PostgreSQL: the engine, the tables, and what is done to them everywhere."""
