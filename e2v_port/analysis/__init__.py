"""A recording: segments judged by one model or two, and the result as text, table or picture."""
