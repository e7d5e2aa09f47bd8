"""Text to token ids and back.

bpe: text to token ids and back, with any tokenizer of Llama's kind: `tokenizer.model`, or `tokenizer.json` alone
bpe_train: trains byte pair encoding with byte fallback, as Llama 2's tokenizer has it, with sentencepiece
document_text: reads documents' texts from parquet and JSON Lines files, in bounded memory and always in the same
encoders: three programs that turn text into token ids, behind one small protocol: two references and a fast one
fertility: how well a tokenizer fits texts: bytes per token by source kind, share of byte pieces, longest pieces
sentencepiece_proto: what sentencepiece's Python interface does not say or change about a model: read from, and cut
tokenizer_config: settings of the tokenizer
tokenizer_json: A sentencepiece BPE model in the form of Hugging Face's `tokenizer.json`, with the same ids for every
"""
