"""Adapters: smtpconn behind the interfaces of frameworks.

    django          the e-mail backend of Django
    django_checks   what `manage.py check` says of its settings
    flask           a Flask extension; moving from Flask-Mail changes one import
    flask_mailman   the same as a backend of Flask-Mailman
    logging         log records as mail, without waiting for it (needs the standard library only)
    opentelemetry   traces, and metrics for OpenTelemetry
    prometheus      metrics for Prometheus

Each framework is imported by its own module here and nowhere else; nothing in `smtpconn` imports
this package. An adapter only translates. What adapters share is written once:

    settings        from a framework's settings to a `ServerConfig` and the process's pool for it
    delivery        from a framework's addresses and bytes to the pool, and what counts as sent
    backlog         which log records are mailed when
    backend         open, close and send_messages as Django and Flask-Mailman call them

A new adapter for a framework like these takes a subclass and a table of setting names. What a
framework's users rely on (names, return values, which errors are silent) is kept; every deliberate
difference is written down in ``docs/``, and has a test.
"""
