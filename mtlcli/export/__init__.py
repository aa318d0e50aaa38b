"""Runs in other forms: plain encoders, files of peft, ONNX graphs, sentence-transformers, model cards, the Hugging Face Hub."""
