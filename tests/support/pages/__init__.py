"""The documents are run here: every block of Python of a page, from top to bottom.

    page        what a page holds: blocks, the output it promises, checks no reader sees
    internet    embedded servers in the place of the hosts that pages name
    __main__    runs one page: ``python -m tests.support.pages docs/errors.md``

A page is one program: its blocks share a namespace. A block that is followed by the word *prints*
and a block of text has to print that text; ``...`` in it stands for anything. A comment of HTML
that begins with the word *check* holds more Python, for what a reader does not want to see: calling
the functions that the page has defined, and asserting what arrived. It finds the servers under the
name ``net``. Functions called ``test_...`` are run by pytest when the page is over.
"""
