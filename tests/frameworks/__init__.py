"""The frameworks' own test suites, run with smtpconn in the place of what they test.

    python -m tests.frameworks django            or flask_mail, logging

A suite comes from the source distribution of the installed framework, which pip downloads; that of
`logging` comes with Python. `suites` has what each needs, `replace_*` are the programs that put
smtpconn in its place and run it. The tests that still fail stand in docs/django.md, docs/flask.md
and docs/logging.md with the reason, and `test_suites` compares.
"""
