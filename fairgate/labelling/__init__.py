"""Makes labels for training routers: how good each model's answer to a prompt is."""
