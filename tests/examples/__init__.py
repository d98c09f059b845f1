"""Each program in examples/ does what it says, with the real framework and a counted server."""
