"""The contract for programs (`/openapi.json`) and for people (`/docs`)."""
