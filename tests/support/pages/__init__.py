"""Runs the documents: every block of Python of a page, from top to bottom.

    page        the contents of a page: blocks, their expected output, and hidden checks
    internet    embedded servers in place of the hosts that pages name
    __main__    runs one page: ``python -m tests.support.pages docs/errors.md``

A page is one program: its blocks share a namespace. A block that is followed by the word *prints*
and a block of text has to print that text; ``...`` in it stands for anything. An HTML comment that
begins with the word *check* contains Python that readers need not see: calls of the functions that
the page defines, and assertions about received mail. The name ``net`` refers to the servers there.
Functions called ``test_...`` are run by pytest at the end of the page.
"""
