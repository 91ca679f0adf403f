"""Complete models built from compiled layers."""
