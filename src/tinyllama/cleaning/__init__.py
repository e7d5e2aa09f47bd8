"""Rules on one document, and a reason for every document that is dropped.

boilerplate_lines: boilerplate: lines that come again in many documents of one site (menus, licences, "last edited
clean_config: settings of cleaning: which rules run, their thresholds, and the split
clean_documents: cleaning's second part: documents into training documents, every drop with its reason
clean_run: cleaning, from raw files to training documents: what the command `clean` and the recipes run
decontaminate: evaluation data kept out of training text: documents that share a run of 13 words with a test example
document_filters: one document's own merits: language, quality, safety, evaluation data, personal information; and
explain: why a document was kept or dropped, read from the files of a finished cleaning
extract: from an HTML page to its main text, by resiliparse, in worker processes that may be killed by a bad page
extract_documents: cleaning's first part: every input file into `documents/*.parquet`, one row a document
funnel: how many documents and bytes went through each step of cleaning, and where the others went
language: which language a text is written in, by fastText's lid.176 (Joulin et al
pii: personal information in a text, replaced with typed placeholders
pii_patterns: what personal information looks like: one finder for each kind, with checksums where the kind has one
quality: is a text good enough to train on? The rules of Gopher, C4 and FineWeb, on many texts at once
safety_features: hashed word and character n-grams of passages: what the safety model sees of a text
safety_labels: rows of text and label from which a safety model is trained
safety_model: offensive and sexual text: a linear model over hashed n-grams that scores a document by its passages
safety_train: trains a safety model from labelled texts: logistic regression over hashed n-grams, calibrated, with
text_batch: words, lines and paragraphs of many texts at once, as arrays: what the quality rules count
write_documents: the last step: one part's documents into the splits and the drops, without the paragraphs that stand
"""
