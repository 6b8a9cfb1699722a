"""How soon a change that one gateway makes is in force on another."""
