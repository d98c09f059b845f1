"""Tests of the command ``smtpconn``."""
