"""The parts of `scripts/bench`: syncd beside conntrackd, the same load, by turns."""
