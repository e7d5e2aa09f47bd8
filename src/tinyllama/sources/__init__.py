"""Where text comes from: web pages over HTTP, WARC files, and a local documentation site."""
