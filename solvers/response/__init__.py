"""Best responses: what one node should hold while the others hold what they hold."""
