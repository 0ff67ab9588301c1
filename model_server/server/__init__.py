"""The OpenAI protocol over an engine and a chat tokenizer."""
