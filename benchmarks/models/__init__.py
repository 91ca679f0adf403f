"""Complete models: each file has the tables of one part."""
