"""Tests of the adapters, against the real frameworks."""
