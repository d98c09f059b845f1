"""Sockets, name resolution, TLS, deadlines and forks: no SMTP."""
