"""From raw files to training documents; every dropped document has a reason.

boilerplate_lines: detects lines repeated across many documents of one site
clean_config: configuration of cleaning: enabled rules, thresholds, train/validation split
clean_documents: second stage of cleaning: filters and deduplicates the extracted documents
clean_run: the whole cleaning phase, from raw files to training documents
decontaminate: removes documents that share a 13-gram of words with evaluation examples
document_filters: per-document filters: language, quality, safety, decontamination, PII; deduplication hashes
explain: reports why a document was kept or dropped
extract: extracts the main text of HTML pages with resiliparse in worker processes
extract_documents: first stage of cleaning: extracts documents from the input files into Parquet
funnel: counts documents and bytes after each cleaning step, and drops by reason
language: language identification with fastText's lid.176
pii: replaces personally identifiable information in a text with typed placeholders
pii_patterns: patterns and checksums for each kind of personally identifiable information
quality: Gopher, C4 and FineWeb quality rules on batches of texts
safety_features: hashed word and character n-gram features of text passages for the safety model
safety_labels: reads labelled texts for training a safety model
safety_model: linear classifier for hate speech and sexual content over hashed n-grams
safety_train: trains and calibrates a safety model and writes its model card
text_batch: words, lines and paragraphs of many texts as NumPy arrays
write_documents: last step of cleaning: writes the splits and the dropped documents
"""
