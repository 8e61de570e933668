"""Words about a voice for a language model: a line, a report, a tool schema."""
