"""A puck that slides: an environment, a network and a surrogate of one's own."""
