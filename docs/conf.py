"""How Sphinx builds the documentation; `cargo xtask python` runs it with warnings as errors."""

import kronsparse
from sphinx.util.inspect import TypeAliasForwardRef

project = "kronsparse"
author = "the kronsparse authors"
version = release = kronsparse.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "alabaster"
html_theme_options = {
    "description": "Fast multiplication by Kronecker-sparse matrices",
    "fixed_sidebar": True,
    "page_width": "1100px",
    "show_powered_by": False,
}
html_sidebars = {"**": ["about.html", "navigation.html", "searchbox.html"]}
html_copy_source = False

# The extension module's docstrings have single backticks, the others double ones.
default_role = "code"
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# Named as they are written, not spelt out.
autodoc_type_aliases = {name: name for name in ("Array", "DTypeLike", "PatternsLike", "Rule")}

# A link that leads nowhere is an error. What belongs to others is not looked for, since nothing is fetched.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(numpy|np|torch|nn|scipy|collections|typing|os|pathlib|builtins)\..*"),
    (r"py:.*", r"(Any|Array|Callable|DTypeLike|Generator|Iterable|Iterator|LinearOperator|Loss|Mapping|Sequence)"),
    (r"py:.*", r"(Module|PatternLike|PatternsLike|Rule|Self|Tensor|optional|path-like object)"),
    # Parts of types that are spelt out.
    (r"py:.*", r".*\[.*"),
]

# Sphinx shows an alias within another type with its own wrapping: the name alone.
TypeAliasForwardRef.__repr__ = lambda alias: alias.name
