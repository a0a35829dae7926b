"""A web page that classifies pictures in the reader's browser: what ``jaxresnet export --format=web`` writes."""
