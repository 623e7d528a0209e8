"""Learning across tasks: collect trials, adapt on them, differentiate through it, move what is meta-learned."""
