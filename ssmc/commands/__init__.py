"""The commands of the command line, one module each; ``ssmc.cli`` names them."""
