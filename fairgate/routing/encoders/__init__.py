"""What turns a prompt into numbers: hashed n-grams and structure, or a sentence embedding as well."""
