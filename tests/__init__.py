"""Tests of smtpconn."""
