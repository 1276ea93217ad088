"""What a person sees.  Eats plain results; imports nothing of the library but types."""
