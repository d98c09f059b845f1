"""Exhaustive fault injection: every octet is cut at, every reply is replaced."""
