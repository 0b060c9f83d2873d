"""Sphinx's settings for docs/: `make docs` builds and serves it, `make lint` builds it with warnings as errors."""

from __future__ import annotations

from shared.version import VERSION

project = "Thoraq"
author = "Thoraq's authors"
release = version = VERSION
extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
# Every link names a page or a file that is there, and every `#place` a heading.
nitpicky = True
# Types of the standard library and of Pydantic stand in signatures; their own documentation is not fetched.
nitpick_ignore_regex = [("py:.*", r"(?!client\b).*")]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
# `console` blocks are what a terminal shows; Sphinx would mark a `$` within a command as an error.
suppress_warnings = ["misc.highlighting_failure"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"

html_theme = "furo"
html_title = f"Thoraq {VERSION}"
html_static_path = ["_static"]
html_css_files = ["thoraq.css"]
html_copy_source = False
html_show_sphinx = False
# The built site needs no network: fonts and scripts are the theme's own files.
html_theme_options = {"navigation_with_keys": True}
