"""The quickstart's web site."""
