"""Sphinx configuration. Build: ``pip install '.[docs]' && sphinx-build -W docs build/docs``."""

from __future__ import annotations

from django.conf import settings

import smtpconn

# autodoc reads every name of the Django adapter, Django's settings among them.
settings.configure()

project = "smtpconn"
author = "The smtpconn maintainers"
version = release = smtpconn.__version__
root_doc = "README"
html_theme = "furo"
html_title = f"smtpconn {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinxcontrib.mermaid",
]

# A ```mermaid fence is a diagram here and on the sites that show Markdown.
myst_fence_as_directive = ["mermaid"]
myst_heading_anchors = 4
myst_links_external_new_tab = False
# Links such as ../smtpconn/pool/core.py lead to files of the repository, which are no pages.
# A short name in a docstring may fit several objects; it stays unlinked then.
suppress_warnings = ["myst.xref_missing", "myst.header", "ref.python"]

# Single backticks in docstrings name Python objects.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
intersphinx_mapping: dict[str, tuple[str, str | None]] = {}
