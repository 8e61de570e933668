"""Makes an answer sound right: voice parameters for each emotion, SSML, speech engines, changed audio."""
