"""Real servers for the tests: mail servers, and a queue.

The embedded test server of this suite does what the client's authors believe servers do.  The
servers here do what servers do.  Each is started from its Debian package as a child of the test
process, on loopback, as configured by a few lines in its own module:

==============  ==================================================================================
`Postfix`       SMTP, STARTTLS, implicit TLS, UNIX socket; AUTH when given Dovecot's SASL port
`Dovecot`       LMTP (TCP, TLS, UNIX socket), submission, and the SASL service for Postfix
`Exim`          SMTP with PIPECONNECT, PRDR, AUTH, EXTERNAL by client certificate
`Cyrus`         LMTP with AUTH; the one which offers SCRAM with channel binding
`OpenSMTPD`     SMTP at its plainest: no pipelining, no chunking, and it minds
`SmtpSink`      Postfix' own test server, which can be told to fail
`RedisServer`   no mail server but the queue of Celery, for the programs in examples/
==============  ==================================================================================

A fixture (`tests.realservers.fixtures`) gives a started server: `host` and ports to connect to,
`stored()` and `wait_for_stored()` for what was delivered, `logs()` for what it had to say,
`restart()` to see how a client lives through that.  Most start within 50 ms, so each test has its
own.

Mailboxes are alice, bob and carol at example.test; their passwords are in `PASSWORDS`.

A server which cannot run here (not root, package absent) skips the tests which ask for it, with the
reason.  Where the servers must be there, SMTPCONN_REQUIRE_SERVERS=1 turns the skip into a failure;
.ci/install-servers installs them all.
"""
