"""The chat template and the tokenizer: text to token ids and back. Content never becomes a control token."""
