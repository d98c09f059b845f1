"""The documentation. `docs.generate` writes those parts of it that follow from the sources.

Here only so that no package called ``docs`` that something else has installed is found instead.
"""
