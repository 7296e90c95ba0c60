"""One experiment's connections over several processes, each with a loop and a pool of its own."""
