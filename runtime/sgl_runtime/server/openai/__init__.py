"""OpenAI's HTTP interface: chat completions, completions, models."""
