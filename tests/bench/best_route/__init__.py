"""What several answers of small lanes are worth: quality at equal cost, with and without them.

Recorded answers are single ones, so several of them are simulated (``world``): each model answers
a prompt right at a rate of its own, drawn from the Beta posterior that its recorded answer leaves.
"""
