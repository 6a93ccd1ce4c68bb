"""Push: a corpus' versions into a repository on the Hub (``run.py``), or adapters as PEFT folders (``peft.py``)."""
