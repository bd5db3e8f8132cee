"""What a forward says in numbers: what the model predicts, and how much of the evidence a map can show."""
