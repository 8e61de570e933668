"""Published checkpoints of a layout of their own: no library saves it, so each has a table of its own."""
