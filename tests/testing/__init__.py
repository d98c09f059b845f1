"""Tests of `smtpconn.testing`, by smtplib and bare sockets: not by the client it is to test."""
