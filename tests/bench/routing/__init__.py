"""How well the difficulty router routes recorded prompts: `make routing`."""
