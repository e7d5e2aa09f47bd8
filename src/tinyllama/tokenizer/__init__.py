"""Text to token ids and back.

bpe: loads a Llama tokenizer (`tokenizer.model` or `tokenizer.json`); encodes and decodes text
bpe_train: trains a BPE tokenizer with byte fallback with sentencepiece
document_text: reads document texts from Parquet and JSON Lines files in a fixed order
encoders: common interface to sentencepiece, Hugging Face tokenizers and Gigatoken
fertility: tokenizer statistics: bytes per token by source kind, byte-fallback share, longest tokens
sentencepiece_proto: reads and edits fields of a sentencepiece model's protocol buffer
tokenizer_config: configuration of the tokenizer
tokenizer_json: converts a sentencepiece BPE model to Hugging Face's `tokenizer.json`
"""
