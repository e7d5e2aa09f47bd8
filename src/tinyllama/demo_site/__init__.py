"""The quickstart's web site: the documentation of installed packages.

docs_gather: collects the docstrings of installed Python packages
docs_pages: maps request paths to rendered documentation pages
docstring_html: renders a reStructuredText docstring with numpydoc sections as HTML, with docutils' writer
docstring_markup: parses docstrings with docutils, including Sphinx's common directives and roles
python_docs: local web server that serves the documentation site for the quickstart crawl
"""
