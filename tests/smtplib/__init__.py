"""Tests of `smtpconn.smtplib`."""
