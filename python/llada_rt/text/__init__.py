"""Text and token ids: the tokenizer, prompts to requests, token ids to text that can be shown."""
