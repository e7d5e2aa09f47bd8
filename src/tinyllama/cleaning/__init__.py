"""From raw documents to training documents, every drop with its reason."""
