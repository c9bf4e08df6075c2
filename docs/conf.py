"""How Sphinx builds the documentation; `cargo xtask python` runs it with warnings as errors."""

import re

import kronsparse

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
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# Named as they are written, not spelt out.
autodoc_type_aliases = {name: name for name in ("Array", "DTypeLike", "PatternsLike", "Rule")}

# A link that leads nowhere is an error. What belongs to others is not looked for, since nothing is fetched.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(numpy|np|torch|nn|scipy|collections|typing|os|builtins)\..*"),
    (r"py:.*", r"(Any|Array|Callable|DTypeLike|Generator|Iterable|Iterator|LinearOperator|Loss|Mapping|Sequence)"),
    (r"py:.*", r"(Module|PatternLike|PatternsLike|Rule|Self|Tensor|TypeAliasForwardRef|optional|path-like object)"),
    # Parts of types that are spelt out.
    (r"py:.*", r".*\[.*"),
]


def named_aliases(app, what, name, thing, options, signature, returns):
    """Names of types within unions, which Sphinx shows with its own wrapping."""
    if signature is None:
        return None
    return tuple(text and re.sub(r"TypeAliasForwardRef\('(\w+)'\)", r"\1", text) for text in (signature, returns))


def setup(app):
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", named_aliases)
