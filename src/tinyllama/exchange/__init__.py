"""Import and export of models: Hugging Face folders and GGUF; `open_model` for all forms.

gguf: writes a model as one GGUF file, for llama.cpp and what is built on it
gguf_format: reads the container of llama.cpp's GGUF files (versions 2 and 3, little-endian): metadata, headers
gguf_names: what GGUF files call the settings and tensors of a Llama, and what we do: both ways, and nowhere else
gguf_tokenizer: A tokenizer as GGUF metadata, both ways: llama.cpp's kinds `llama` (sentencepiece) and `gpt2`
hugging_face: writes a model as a Hugging Face folder that opens in AutoModelForCausalLM and AutoTokenizer without
hugging_face_names: what Hugging Face calls the settings and tensors of a Llama, and what we do: both ways, and
model_card: the README.md of an exported model: its data, recipe, scores and limits, from what the run itself recorded
open_model: the only way in for a model, whatever its form: a run folder, a checkpoint, a Hugging Face folder or a
plain_llama: A network with embedding projections as a plain Llama with the same logits, which is all that other
tensor_files: tensors of a model's folder, from one or several safetensors files, read one at a time
"""
