"""Adapters: smtpconn behind the interfaces of frameworks.

    django          the e-mail backend of Django
    django_checks   checks of its settings for `manage.py check`
    flask           a Flask extension; moving from Flask-Mail changes one import
    flask_mailman   the e-mail backend of Flask-Mailman
    logging         a handler that mails log records in the background (standard library only)
    opentelemetry   traces, and metrics for OpenTelemetry
    prometheus      metrics for Prometheus

Each framework is imported only by its own module; nothing else in `smtpconn` imports this package.
An adapter only translates. Adapters share:

    settings        makes a `ServerConfig` and its pool from a framework's settings
    delivery        sends a framework's message over the pool; when a message counts as sent
    logging_queue   which log records are mailed, and when
    backend         open, close and send_messages, which Django and Flask-Mailman call

A new adapter for a framework like these is a subclass and a table of setting names. It keeps what
users of the framework rely on: names, return values, and which errors are silent. ``docs/`` lists
every deliberate difference, and each has a test.
"""
