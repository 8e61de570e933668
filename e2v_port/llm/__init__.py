"""Language models and voices: words about a voice for any of them, and one that hears speech itself."""
