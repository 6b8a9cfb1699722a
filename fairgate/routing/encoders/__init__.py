"""What turns a prompt into numbers: hashed n-grams, structure, sentence embedding."""
