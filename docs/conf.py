"""Sphinx's configuration: `tox run -e docs` builds the pages, with warnings as errors."""

import django
from django.conf import settings

from django_safe_init.version import __version__

# Autodoc imports the package, which reads Django's settings.
settings.configure(INSTALLED_APPS=["django_safe_init"])
django.setup()

project = "django-safe-init"
author = "django-safe-init contributors"
project_copyright = author
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

# Docstrings mark code as this project's comments do, with single backquotes.
default_role = "code"
smartquotes = False

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# The pages are built without the network, so what is not ours cannot be linked.
nitpick_ignore_regex = [
    ("py:.*", r"(?!django_safe_init\b).*"),
    ("py:class", r"django_safe_init\.core\.progress\.T"),  # a type variable
    # The types that a backend's contract mentions are private, so no page describes them.
    ("py:class", r"django_safe_init\.backends\.base\..*"),
]

html_theme = "furo"
html_title = f"django-safe-init {version}"
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["diagrams.css"]
html_theme_options = {"navigation_with_keys": True}
