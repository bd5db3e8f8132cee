"""How the tokens of an image come about."""
