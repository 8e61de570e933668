"""A voice while it speaks: detector, backends, sound sources, the view on the terminal."""
