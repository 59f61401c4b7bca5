"""What each part of the method is worth: the experiments behind docs/evidence.md, and the command that writes it."""
