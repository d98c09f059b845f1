"""What writes the generated parts of the documentation; `python -m docs.generate` writes all.

    sources     the public names, read from the source text; nothing of smtpconn is imported
    docstring   a docstring as Markdown, with links
    stubs       signatures and classes as a stub file has them
    reference   the pages of docs/reference/
    layers      the table of modules in docs/architecture.md
    pictures    the pictures of docs/architecture.md

Rule: what comes out depends on the text of the sources and on nothing else: not on the version of
Python, not on which frameworks are installed. `tests/test_reference.py` and
`tests/test_architecture.py` compare what is committed with what comes out.
"""
