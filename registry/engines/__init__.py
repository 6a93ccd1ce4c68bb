"""What runs inside other engines: it imports no torch, PEFT or transformers, for their environments have their own."""
