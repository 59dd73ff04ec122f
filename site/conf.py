"""Settings of the site. `make site` calls Sphinx with them; the pages are gathered by build.py."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from docstrings import as_rst, skip_foreign  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

project = "Mixture of Experts, by hand"
author = "the authors of the course"
html_title = project
language = "en"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
exclude_patterns = ["parts/*"]

# Notebooks are shown as they are stored: nothing is executed.
nb_execution_mode = "off"
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["dollarmath", "attrs_inline", "attrs_block"]
myst_heading_anchors = 4

# The reference: every public name, its docstring as plain text (docstrings.py).
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
add_module_names = False
python_use_unqualified_type_names = True
nitpicky = True
nitpick_ignore_regex = [  # names of Python and of other packages: their pages are not here
    ("py:.*", r"(?!moe_tutorial).*|.*\._\w+"),
]

html_theme = "sphinx_book_theme"
html_theme_options = {
    "use_download_button": True,
    "use_fullscreen_button": True,
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "navbar_persistent": [],  # the search field of the sidebar is enough
    "show_navbar_depth": 1,
}
html_static_path = [str(HERE / "static"), str(HERE.parent / "build" / "site-vendor")]
html_css_files = ["site.css"]
html_js_files = ["site.js", "sliders.js", "router.js"]
html_sourcelink_suffix = ""
html_show_sphinx = False
html_show_copyright = False
html_last_updated_fmt = None
mathjax_path = "mathjax/tex-mml-chtml.js"
copybutton_exclude = ".linenos, .gp, .go"


def setup(app: Sphinx) -> None:
    """Sphinx calls this once."""
    app.connect("autodoc-process-docstring", as_rst)
    app.connect("autodoc-skip-member", skip_foreign)
