"""Where text comes from: the crawler, WARC files, readers of local and remote files.

address_guard: keeps the crawler out of private networks: the check sits where names become addresses, so every
crawl: the `crawl` phase: pages from seed addresses into WARC files, politely, and going on after a kill at any moment
crawl_process: the crawl's own process: Twisted's reactor runs once in a process, and its memory goes when it ends
document: the record that passes from every source to cleaning: one text and where it came from
frontier: the crawl's frontier: every address seen, what became of it, and how far each WARC file is good, in one
page_spider: the Scrapy spider: takes pages from our frontier, judges them in the frontier's order, writes the kept
page_urls: one spelling for each page address, so that a page is fetched once (RFC 3986, section 6.2.2 and 6.2.3)
read_inputs: what cleaning reads: WARC, parquet and JSON Lines files, as one stream of records a file, with bounded
remote_inputs: input files on S3 (`s3://bucket/key`, or a prefix) and on the web (`https://...`): found, and copied
sources_config: settings of where text comes from
warc: reads web pages from any WARC file on disk, compressed or not, with bounded memory
warc_writer: writes crawled pages as WARC/1.1 response records, one gzip member each, into files 00000.warc.gz
"""
