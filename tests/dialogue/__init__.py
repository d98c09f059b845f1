"""Conversations without sockets: scripts of what is said and answered."""
