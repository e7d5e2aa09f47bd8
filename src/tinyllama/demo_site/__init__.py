"""The quickstart's web site: the documentation of installed packages.

docs_gather: collects the docstrings of the installed Python packages: one entry a public function, class, module or
docs_pages: the documentation web site as paths and pages: entries in, bytes of a page out, rendered when asked for
docstring_html: A docstring as HTML: reStructuredText with numpydoc's sections, read by docutils, written by a small
docstring_markup: the reStructuredText that scientific docstrings are written in: docutils plus Sphinx's common
python_docs: A real web server for the documentation of the installed Python packages: the web site that the
"""
