"""The connection pool: who gets which connection, and sending over it."""
