"""Where text comes from: the crawler, WARC files, readers of local and remote files.

address_guard: blocks the crawler's connections to private networks in the name resolver
crawl: the `crawl` phase: resumable crawling of seed addresses into WARC files
crawl_process: child process that runs Scrapy and Twisted's reactor for one crawl
document: the document record that sources pass to cleaning
frontier: SQLite database of crawled addresses, their states and the WARC file lengths
page_spider: Scrapy spider that fetches pages from the frontier and writes them to WARC in a fixed order
page_urls: URL normalisation (RFC 3986, sections 6.2.2 and 6.2.3)
read_inputs: reads WARC, Parquet and JSON Lines files as streams of records
remote_inputs: lists and downloads input files from S3 and HTTPS
sources_config: configuration of the crawler and its page filters
warc: reads HTML responses from WARC files, compressed or not
warc_writer: writes crawled pages as gzip-compressed WARC/1.1 response records
"""
