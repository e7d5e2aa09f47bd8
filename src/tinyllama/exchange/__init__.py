"""Import and export of models: Hugging Face folders and GGUF; `open_model` for all forms.

export_files: output folder, atomic files and the plain Llama that both exports share
file_settings: strict pydantic base for settings in files of other programs
gguf: exports a model as one GGUF file for llama.cpp
gguf_format: reads GGUF files (versions 2 and 3, little-endian): metadata, tensor headers, weights
gguf_names: maps settings and the row order of q and k between GGUF and tinyllama
gguf_tokenizer: converts a tokenizer to and from GGUF metadata (`llama` and `gpt2` kinds)
hugging_face: exports a model as a Hugging Face folder that Transformers loads
hugging_face_names: maps settings between Hugging Face and tinyllama
model_card: writes the README.md of an exported model from the run's records
open_model: opens a model from a run folder, checkpoint, Hugging Face folder or GGUF file
tensor_files: reads tensors one at a time from one or several safetensors files
tensor_names: names of tensors in Hugging Face and GGUF files
"""
